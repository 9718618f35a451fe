"""Every shell block of quickstart, tutorial and how-tos runs, in order, page by page, in an empty folder.

Called by: pytest. Must not import: backend, worker.
A page becomes one script, so that its variables last. `groundcrew up` runs in the background until the page ends,
or the next `up`. The real Label Studio stands where a page says http://localhost:8080, a project for number 1.
Example: .venv/bin/python -m pytest tests/services/test_docs.py -k quickstart
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groundcrew.child import bare_environment, free_port
from groundcrew.demo.scenes import make_images
from tests.docs_blocks import DOCS, REPOSITORY, RUN_PAGES, read_blocks

PAGE_DEADLINE_S = 240
PROLOGUE = r"""
set -euo pipefail
stop_crew() { if [ -n "${CREW:-}" ]; then kill -INT "$CREW"; wait "$CREW" || true; CREW=; fi; }
trap stop_crew EXIT
groundcrew() {
  if [ "$1" != up ]; then command groundcrew "$@"; return; fi
  stop_crew
  command groundcrew "$@" --port "$DOCS_PORT" > up.log 2>&1 &
  CREW=$!
  until grep -q "Groundcrew is ready" up.log; do
    kill -0 "$CREW" 2> /dev/null || { cat up.log; return 1; }
    sleep 0.2
  done
  (cd "$DOCS_REPOSITORY" && python -m tests.services.connect $DOCS_LABEL_STUDIO "http://127.0.0.1:$DOCS_PORT")
}
"""


@pytest.fixture(scope="module")
def project(label_studio) -> int:
    """A connected person's project: the quickstart's labels, two images."""
    config = next(block.text for block in read_blocks(DOCS / "quickstart.md") if block.language == "xml")
    made = label_studio.create_project("documentation", config)
    label_studio.upload_images(made, [image.file for image in make_images(2)])
    return made


@pytest.mark.timeout(PAGE_DEADLINE_S + 60)
@pytest.mark.parametrize("page", RUN_PAGES)
def test_every_block_of_the_page_runs(page, tmp_path, project, label_studio_server, label_studio_token):
    place = {"http://localhost:8080": label_studio_server.url, "YOUR_TOKEN": label_studio_token}
    script = PROLOGUE + "\n".join(_as_script(block.place, block.text, place, project) for block in _run_blocks(page))
    environment = bare_environment({
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "TORCH_THREADS": "1", "DOCS_REPOSITORY": str(REPOSITORY), "DOCS_PORT": str(free_port()),
        "DOCS_LABEL_STUDIO": f"{label_studio_server.url} {label_studio_token} {project}",
    })  # fmt: skip

    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, timeout=PAGE_DEADLINE_S, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip

    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "Traceback" not in ended.stdout, ended.stdout[-3000:]
    for picture in re.findall(r"--out ([\w-]+)", script):
        assert list((tmp_path / picture).iterdir()), f"{picture} is empty"


def _run_blocks(page: str):
    return [block for block in read_blocks(DOCS / page) if block.language == "bash" and not block.not_run]


def _as_script(place: str, text: str, replaced: dict[str, str], project: int) -> str:
    for shown, real in replaced.items():
        text = text.replace(shown, real)
    return f"echo '== {place}'\n" + re.sub(r"--project 1\b", f"--project {project}", text)
