"""The code blocks of the documentation, as tests read them.

Called by: tests/unit/test_documentation.py, tests/services/test_docs.py. Must not import: anything of ours.
A block is run unless the line before it is `<!-- not run: REASON -->`.
Example: `[block.text for block in read_blocks(Path("docs/quickstart.md")) if block.language == "bash"]`
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
#: Pages whose every block is run; a translation has the same commands, which tests/unit/test_documentation.py compares.
RUN_PAGES = ("quickstart.md", "tutorial.md", *sorted(
    f"howto/{path.name}" for path in (DOCS / "howto").glob("*.md")))  # fmt: skip
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int  #: of its opening fence
    language: str
    text: str
    not_run: str  #: the reason, or "" where it is run

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(path: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        reason = _NOT_RUN.search(before)
        yield Block(
            path.relative_to(REPOSITORY).as_posix(), before.count("\n") + 1, found["language"], found["text"],
            reason[1] if reason else "",
        )  # fmt: skip
