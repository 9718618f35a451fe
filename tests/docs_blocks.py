"""The code blocks of the documentation, as tests read them, and the list of those that no test runs.

Called by: tests/unit/test_documentation.py, test_translations.py, tests/services/test_docs.py. Imports nothing of ours.
A block is run unless NOT_RUN names its first line; those are parsed, and what they name is looked up.
Example: `[block.text for block in read_blocks(Path("docs/quickstart.md")) if block.language == "bash"]`
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, groupby
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
READMES = (REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md")
#: English page -> the same in Chinese
TRANSLATED = {page.relative_to(DOCS / "zh").as_posix(): page for page in sorted((DOCS / "zh").rglob("*.md"))}
_HOWTOS = sorted(f"howto/{path.name}" for path in (DOCS / "howto").glob("*.md"))
_RUN = ("quickstart.md", "tutorial.md", *_HOWTOS)
#: Pages whose every block is run, but for those in NOT_RUN.
RUN_PAGES = (*_RUN, *(f"zh/{name}" for name in TRANSLATED if name in _RUN))
GIGABYTES = "it downloads gigabytes"
#: First line of a block -> why no test runs it as it stands there, and what is run instead.
NOT_RUN = {
    "make install": f"{GIGABYTES}; CI does exactly this before any test",
    "groundcrew demo": "it installs and starts a Label Studio of its own; tests/services/test_demo.py runs it",
    "pip download --dest wheels torch==2.13.0": f"{GIGABYTES}; the names and the version are looked up",
    "python3 -m venv .venv": "it needs the folder of wheels of the block before; its extras are looked up",
    "deploy/get_weights --download-only":
        f"{GIGABYTES}; tests/services/test_get_weights.py runs it against a server of its own",
    "docker-compose build api worker":
        "it builds and saves gigabytes; its names are compared with docker-compose.yml, and "
        "tests/services/test_compose.py builds both images",
    "docker load < groundcrew-images.tar.gz":
        "it needs the file of the block before; tests/services/test_compose.py starts the same services",
    "make env": "it builds images of gigabytes; tests/services/test_compose.py does, its first line is run by itself",
    'make env && echo "COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml" >> .env  # 1 ':
        "the five commands need a GPU and an editor: the first is run by itself, the third by "
        "tests/services/test_get_weights.py, the others by tests/services/test_compose.py",
    "NAME=grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det":
        f"{GIGABYTES}; it is compared with deploy/get_weights, and tests/flow/test_models_add.py runs `models add`",
}  # fmt: skip
_OPERATORS = {"&&", "||", "|", ";", ">", ">>"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int  #: of its opening fence
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str:
        """The line of NOT_RUN that names it, or "" where it is run."""
        first = self.text.lstrip().partition("\n")[0]
        return next((line for line in NOT_RUN if first == line or (line[-1] == " " and first.startswith(line))), "")


def read_blocks(path: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(path.relative_to(REPOSITORY).as_posix(), line, found["language"], found["text"])


def calls(block: Block) -> list[list[str]]:
    """The commands of a block as words, without comments and variables before them, continued lines joined."""
    found: list[list[str]] = []
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        words = shlex.split(re.split(r"\s#\s", line)[0], comments=True) if line.count('"') % 2 == 0 else []
        found += [list(part) for is_end, part in groupby(words, key=_OPERATORS.__contains__) if not is_end]
    return [named for words in found if (named := list(dropwhile(re.compile(r"[A-Z_]+=").match, words)))]
