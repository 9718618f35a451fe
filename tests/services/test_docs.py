"""Every shell block of quickstart, tutorial and how-tos runs, in order, page by page, in an empty folder.

Called by: pytest. Must not import: backend, worker.
A page becomes one script, so that its variables last. `groundcrew up` runs in the background until the page ends,
or the next `up`; other servers, until they answer; a fine-tune makes two steps. Real things stand where a page names
what a reader has: Label Studio for http://localhost:8080, an annotated project for number 1, the tiny model for MM
Grounding DINO's files, a bucket on an S3 server of our own.
Example: .venv/bin/python -m pytest tests/services/test_docs.py -k quickstart
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file

from contract.registry import ZOO
from groundcrew.child import bare_environment, free_port
from groundcrew.demo.scenes import make_images
from tests.docs_blocks import DOCS, REPOSITORY, RUN_PAGES, Block, read_blocks
from tests.services.machine import absent
from tests.services.old_tool import old_tool_path
from tests.services.s3_server import serve_s3
from tests.services.trainers import QUICK, annotate

PAGE_DEADLINE_S = 1500  #: for a busy machine
TINY = ZOO / "tiny-shapes"
WEIGHTS = "grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det"
PROLOGUE = r"""
set -euo pipefail
stop_crew() { if [ -n "${CREW:-}" ]; then kill -INT "$CREW"; wait "$CREW" || true; CREW=; fi; }
trap stop_crew EXIT
groundcrew() {
  if [ "$1" = finetune ]; then set -- "$@" $DOCS_QUICK; fi
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
python() {
  if [ "$*" != "-m worker predict" ]; then command python "$@"; return; fi
  command python "$@" > worker.log 2>&1 &
  until grep -q "is ready, consuming" worker.log; do
    kill -0 $! 2> /dev/null || { cat worker.log; return 1; }
    sleep 0.2
  done
  kill $! && wait $!
}
serve() {  # a signal and a URL, then a command that serves it: runs until it answers
  local signal=$1 url=$2
  shift 2
  setsid "$@" > served.log 2>&1 &
  until command python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "$url" 2> /dev/null; do
    kill -0 $! 2> /dev/null || { cat served.log; return 1; }
    sleep 0.5
  done
  kill "-$signal" -- "-$!" && { wait $! || true; }
}
label-studio() {
  mkdir label-studio-data
  cp "$DOCS_VENV"/fresh-*.sqlite3 label-studio-data/label_studio.sqlite3
  COLLECT_ANALYTICS=false LATEST_VERSION_CHECK=false SENTRY_DSN= FRONTEND_SENTRY_DSN= LABEL_STUDIO_PORT=$DOCS_PORT \
    LABEL_STUDIO_BASE_DATA_DIR=$PWD/label-studio-data serve TERM "http://127.0.0.1:$DOCS_PORT/health" \
    "$DOCS_VENV/bin/label-studio" "$@" --no-browser --internal-host 127.0.0.1
}
label-studio-ml() {
  ln -s "$DOCS_REPOSITORY/backend" backend
  PATH=$DOCS_OLD_PATH serve INT "http://127.0.0.1:$DOCS_PORT/health" label-studio-ml "$@"
}
"""


@pytest.fixture(scope="module")
def project(label_studio) -> int:
    """A connected person's project: the quickstart's labels, images, and what was drawn in them, submitted."""
    config = next(block.text for block in read_blocks(DOCS / "quickstart.md") if block.language == "xml")
    made = label_studio.create_project("documentation", config)
    annotate(label_studio, made, make_images(8))
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The tiny model's weights as a .pth, as OpenMMLab's are."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": load_file(TINY / "model.safetensors")}, path)
    return path


@pytest.fixture
def bucket(tmp_path) -> Iterator[dict[str, str]]:
    """Variables that lead to an S3 server with the bucket of the how-to."""
    with serve_s3(tmp_path) as access:
        keys = {"key": access["AWS_ACCESS_KEY_ID"], "secret": access["AWS_SECRET_ACCESS_KEY"]}
        fsspec.filesystem("s3", endpoint_url=access["AWS_ENDPOINT_URL"], **keys).mkdir("my-bucket")
        yield access


@pytest.fixture
def port() -> str:
    return str(free_port())


@pytest.fixture
def real_things(tmp_path, checkpoint, redis_url, port, label_studio_server, label_studio_token) -> dict[str, str]:
    """What stands in the pages -> what is there in its place; longer ones first."""
    return {
        f"weights/{WEIGHTS}_20231204_095047-b448804b.pth": str(checkpoint), WEIGHTS: f"{TINY}/config.py",
        "weights/bert-base-uncased": f"{TINY}/bert", "redis://:PASSWORD@redis.example.org:6379/0": redis_url,
        "http://label-studio.example.org": label_studio_server.url, "http://localhost:8080": label_studio_server.url,
        "YOUR_TOKEN": label_studio_token, "/mnt/shared/models": f"{tmp_path}/shared", "/mnt/images": str(tmp_path),
        "/srv/label-studio": str(tmp_path), "--port 8003": f"--port {port}",
    }  # fmt: skip


def _run_blocks(page: str) -> list[Block]:
    return [block for block in read_blocks(DOCS / page) if block.language == "bash" and not block.not_run]


def _distinct_pages() -> dict[str, str]:
    """Page -> it and its translations, which have the same blocks but for comments: they run once, under both names."""
    pages: dict[tuple[str, ...], list[str]] = {}
    for page in RUN_PAGES:
        blocks = tuple(re.sub(r"^#.*\n|\s+# .*", "", block.text, flags=re.MULTILINE) for block in _run_blocks(page))
        if blocks:
            pages.setdefault(blocks, []).append(page)
    return {same[0]: " = ".join(same) for same in pages.values()}


@pytest.mark.timeout(PAGE_DEADLINE_S + 60)
@pytest.mark.parametrize("page", [pytest.param(page, id=names) for page, names in _distinct_pages().items()])
def test_every_block_of_the_page_runs(page, tmp_path, request, project, port, real_things, label_studio_venv,
                                      label_studio_server, label_studio_token):  # fmt: skip
    script = PROLOGUE + "\n".join(_as_script(block, real_things, project) for block in _run_blocks(page))
    environment = bare_environment({
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "TORCH_THREADS": "1", "DOCS_REPOSITORY": str(REPOSITORY), "DOCS_PORT": port,
        "DOCS_VENV": str(label_studio_venv),
        "DOCS_OLD_PATH": old_tool_path() if "label-studio-ml start" in script else "",
        "DOCS_LABEL_STUDIO": f"{label_studio_server.url} {label_studio_token} {project}",
        "DOCS_QUICK": " ".join(f"--set {name}={value}" for name, value in QUICK.items()),
        **(request.getfixturevalue("bucket") if "s3://" in script else {}),
    })  # fmt: skip

    ended = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, timeout=PAGE_DEADLINE_S, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip

    assert ended.returncode == 0, ended.stdout[-3000:]
    assert "Traceback" not in ended.stdout, ended.stdout[-3000:]
    for picture in re.findall(r"--out ([\w-]+)", script):
        assert list((tmp_path / picture).iterdir()), f"{picture} is empty"


def test_the_first_of_the_five_commands_writes_what_compose_takes(tmp_path):
    # given a checkout
    for name in ("Makefile", ".env.example", "deploy", "docker-compose.yml", "docker-compose.gpu.yml"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    (five,) = [block.text for block in read_blocks(DOCS / "deploy.md") if "deploy/get_weights\n" in _uncommented(block)]
    run = partial(subprocess.run, cwd=tmp_path, env=bare_environment({"PATH": os.environ["PATH"]}), text=True,
                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip

    # when
    made = run(["bash", "-ec", five.splitlines()[0]])

    # then
    assert made.returncode == 0, made.stdout
    assert (tmp_path / ".env").read_text().endswith("COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml\n")
    compose = shutil.which("docker-compose") or absent("docker-compose")
    checked = run([compose, "config", "--quiet"])
    assert (checked.returncode, checked.stdout) == (0, "")


def _uncommented(block: Block) -> str:
    return re.sub(r" +#.*", "", block.text)


def _as_script(block: Block, replaced: Mapping[str, str], project: int) -> str:
    """What another machine does keeps its variables to itself."""
    text = block.text
    elsewhere = ".example.org" in text
    for shown, real in replaced.items():
        text = text.replace(shown, real)
    text = re.sub(r"--project 1\b", f"--project {project}", text).replace("-p1-", f"-p{project}-")
    return f"echo '== {block.place}'\n" + (f"(\n{text})\n" if elsewhere else text)
