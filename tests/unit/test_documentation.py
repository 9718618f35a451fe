"""What the documentation names exists: commands, flags, modules, functions, files, images. What is not run says why.

Called by: pytest. tests/services/test_docs.py runs the blocks; `make docs` finds dead links.
Must not import: torch, backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_documentation.py
"""

import ast
import configparser
import importlib.metadata
import importlib.util
import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import fromstring

import click
import pytest
import yaml

from contract.labels import read_label_config
from contract.settings import Settings
from groundcrew.cli import cli
from tests.docs_blocks import DOCS, NOT_RUN, READMES, REPOSITORY, RUN_PAGES, calls, read_blocks

PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(REPOSITORY.glob("*.md"))]
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SHELL = [block for block in BLOCKS if block.language == "bash"]


def command_of(words: list[str]) -> click.Command:
    """The click command that the words call."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        assert word in command.commands, f"groundcrew has no command {word}"
        command = command.commands[word]
    return command


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_a_shell_block_is_shell(block):
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_flags_targets_and_modules_exist(block):
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for words in calls(block):
        program, rest = Path(words[0]).name, words[1:]
        if program == "groundcrew":
            known = {flag for param in command_of(rest).params for flag in param.opts} | {"--help", "--version"}
            named = {word.split("=")[0] for word in rest if word.startswith("--")}
            assert named <= known, f"{block.place}: {named - known}"
        if program == "make":
            assert [word for word in rest if "=" not in word and word not in targets] == [], block.place
        if program.startswith("python") and rest[:1] == ["-m"] and rest[1] != "venv":
            assert importlib.util.find_spec(rest[1]), f"{block.place}: no module {rest[1]}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_other_blocks_are_what_they_say(block):
    match block.language:
        case "xml":
            read_label_config(block.text)
            fromstring(block.text)
        case "json":
            json.loads(block.text)
        case "yaml":
            list(yaml.safe_load_all(block.text))
        case "python":
            ast.parse(block.text)
        case language:
            assert language in ("bash", "text", "ini", "bibtex", "promql", "nginx", "toml", "dockerfile", "console",
                                "diff", "http"), f"{block.place}: say what it is"  # fmt: skip


def test_what_is_not_run_is_somewhere_and_has_a_reason_that_holds():
    assert {block.not_run for block in SHELL} - {""} == NOT_RUN.keys()
    for line, reason in NOT_RUN.items():
        assert len(reason) > 30, line
        for path in re.findall(r"(?:tests|groundcrew)/[\w/]+\.py", reason):
            assert (REPOSITORY / path).exists(), f"{line}: {path} is gone"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_services_packages_and_scripts_of_a_block_exist(block):
    """Also of those that no test runs."""
    for words in calls(block):
        match [Path(words[0]).name, *words[1:]]:
            case ["docker-compose", *rest]:
                check_compose(rest)
            case ["pip", "download" | "install", *rest]:
                check_packages([word for word in rest if word.startswith((".[", "torch"))])
            case ["docker", "save", *images]:
                assert set(images) == {image_of(COMPOSE["services"][name]) for name in ("api", "worker", "redis")}
            case _ if words[0].startswith("deploy/"):
                script = (REPOSITORY / words[0]).read_text()
                assert all(word in script for word in words[1:] if word.startswith("--"))


def check_compose(words: list[str]) -> None:
    """Services are those of docker-compose.yml; what `crew` is told is a command of ours."""
    services = COMPOSE["services"].keys()
    profiles = {profile for service in COMPOSE["services"].values() for profile in service.get("profiles", ())}
    assert {word for flag, word in pairwise(words) if flag == "--profile"} <= profiles
    assert {word.partition("=")[0] for flag, word in pairwise(words) if flag == "--scale"} <= services
    if "crew" in words:
        command_of(words[words.index("crew") + 1 :])
    if words[0] in ("build", "pull"):
        assert set(words[1:]) <= services


def check_packages(words: list[str]) -> None:
    """Extras of ours, and the torch that `make install` takes."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    for word in words:
        if word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(setup["options.extras_require"])
        else:
            assert f"TORCH ?= {word}\n" in (REPOSITORY / "Makefile").read_text()


def image_of(service: dict) -> str:
    """The name of an image, where no variable says otherwise."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])


def test_a_page_with_commands_runs_some_of_them():
    for name in RUN_PAGES:
        shell = [block for block in read_blocks(DOCS / name) if block.language == "bash"]
        assert not shell or any(not block.not_run for block in shell), name


# -- names -------------------------------------------------------------------------------------------------------------


def test_settings_named_in_the_documentation_exist():
    """In the pages that are run, and the READMEs: NAME=value in a block is a setting of ours, or of what it starts."""
    foreign = {"ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", "ONCE", "TORCH", "PYTHON", "COMPOSE_FILE",
               "LABEL_STUDIO_HOST", "LABEL_STUDIO_ACCESS_TOKEN"}  # fmt: skip
    ours = {name.upper() for name in Settings.model_fields}
    pages = [DOCS / name for name in RUN_PAGES] + [page for page in READMES if page.exists()]
    for block in (block for page in pages for block in read_blocks(page) if block.language == "bash"):
        named = set(re.findall(r"\b([A-Z][A-Z_0-9]{3,})=", block.text))
        assert named <= ours | foreign, f"{block.place}: {named - ours - foreign}"


def test_functions_named_in_the_architecture_exist():
    """Rows such as | ... | `worker/tasks.py`: `predict`, `write_back` |"""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", text)
    assert len(rows) > 12
    for path, names in rows:
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"^\s*(?:def|class) {name.split('.')[-1]}\b", source, re.MULTILINE), f"{path}: {name}"


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")), ids=lambda page: page.name)
def test_links_of_pages_outside_the_site_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or target.startswith("mailto:") or (page.parent / target).exists(), target


def test_the_way_by_hand_downloads_what_the_script_does():
    script = (REPOSITORY / "deploy" / "get_weights").read_text()
    sums = (REPOSITORY / "deploy" / "weights.sha256").read_text()
    (by_hand,) = [block.text for block in read_blocks(DOCS / "deploy.md") if "curl" in block.text]
    name, revision, digits, parts = (
        re.search(pattern, by_hand)[1]
        for pattern in (r"NAME=(\S+)", r"resolve/([0-9a-f]{40})", r"--sha256 (\w{64})", r"for PART in (.*); do")
    )
    for part in (name, revision, "https://download.openmmlab.com/mmdetection/v3.0/mm_grounding_dino/"):
        assert part in script
        assert part in by_hand
    assert f"{digits}  {name}_20231204_095047-b448804b.pth\n" in sums
    assert sorted(re.findall(r"bert-base-uncased/(\S+)\n", sums)) == sorted(parts.split())


# -- the rest of what people look for in a repository ------------------------------------------------------------------


def test_the_citation_is_complete():
    """The fields that the schema of Citation File Format 1.2.0 requires, and what must not drift."""
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))

    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert all("name" in author or "family-names" in author for author in cited["authors"])
    assert cited["version"] == importlib.metadata.version("groundcrew")
    for reference in cited["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_licence_and_community_files_exist():
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()
    assert "Contributor Covenant" in (REPOSITORY / "CODE_OF_CONDUCT.md").read_text()
    assert (REPOSITORY / "CONTRIBUTING.md").exists()
