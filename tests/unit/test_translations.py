"""English and Chinese pages say the same: sections, blocks, commands, tables, pictures, and all names in code.

Called by: pytest. tests/unit/test_documentation.py looks whether what they name exists.
Must not import: torch, backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_translations.py
"""

import re
from pathlib import Path

import pytest

from tests.docs_blocks import DOCS, READMES, TRANSLATED, calls, read_blocks


def test_both_readmes_have_the_same_structure():
    assert headings(READMES[0]) == headings(READMES[1])


@pytest.mark.parametrize("pair", [READMES, *((DOCS / name, page) for name, page in TRANSLATED.items())],
                         ids=["README.md", *TRANSLATED])  # fmt: skip
def test_both_languages_have_the_same_commands(pair):
    """Comments may be translated."""
    english, chinese = ([words for block in read_blocks(page) if block.language == "bash" for words in calls(block)]
                        for page in pair)  # fmt: skip

    assert english == chinese


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_have_the_same_sections_and_blocks(name):
    english, chinese = DOCS / name, TRANSLATED[name]

    assert headings(english) == headings(chinese)
    assert [block.language for block in read_blocks(english)] == [block.language for block in read_blocks(chinese)]


def test_what_a_user_needs_is_there_in_both_languages():
    """Pages about how it is built may be English alone."""
    assert {"quickstart.md", "tutorial.md", "deploy.md", "runbook.md"} <= TRANSLATED.keys()
    assert {f"howto/{page.name}" for page in (DOCS / "howto").glob("*.md")} <= TRANSLATED.keys()


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_have_the_same_rows_and_points(name):
    """A new symptom, setting or limit of the English page is missed in the Chinese one."""
    english, chinese = ([re.findall(pattern, _prose(page), re.MULTILINE) for pattern in (r"^\|", r"^- ", r"^\d+\. ")]
                        for page in (DOCS / name, TRANSLATED[name]))  # fmt: skip

    assert english == chinese


@pytest.mark.parametrize("name", TRANSLATED)
def test_the_chinese_page_names_all_that_the_english_one_does(name):
    """Settings, commands, files, addresses: all that stands between backquotes."""
    english, chinese = (set(re.findall(r"`([^`\n]+)`", _unwrapped(page))) for page in (DOCS / name, TRANSLATED[name]))

    assert english - chinese == set()


@pytest.mark.parametrize("name", TRANSLATED)
def test_both_languages_show_the_same_pictures(name):
    """In the page's own language where there is one, whose name ends with -zh; each says what is seen."""
    english, chinese = pictures(DOCS / name), pictures(TRANSLATED[name])

    assert [Path(path).name for _, path in english] == [Path(path).name.replace("-zh", "") for _, path in chinese]
    assert all(len(alt) > 5 for alt, _ in (*english, *chinese))


def test_the_way_to_real_weights_is_the_same_five_commands_everywhere():
    english, chinese, deploy = (
        [block for block in read_blocks(page) if "deploy/get_weights" in block.text]
        for page in (*READMES, DOCS / "deploy.md")
    )

    assert len(deploy) == 1
    assert [calls(block) for block in english] == [calls(block) for block in chinese] == [calls(deploy[0])]
    assert len(deploy[0].text.splitlines()) == 5


def test_both_readmes_show_the_same_pictures():
    english, chinese = ([path for _, path in pictures(page)] for page in READMES)

    assert english == chinese
    assert any(name.endswith((".webp", ".gif")) for name in english)


def pictures(page: Path) -> list[tuple[str, str]]:
    """(alternative text, path) of each."""
    return re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[int]:
    """The level of each."""
    return [len(marks) for marks in re.findall(r"^(#+) ", _prose(page), re.MULTILINE)]


def _unwrapped(page: Path) -> str:
    """The prose with each paragraph on one line."""
    return re.sub(r"\n(?=\S)", " ", _prose(page))


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
