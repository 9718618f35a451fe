"""deploy/get_weights against a real HTTP server: whole, cut off, resumed, wrong, and then registered and named in .env.

Called by: pytest. A copy of the script runs in a folder of its own; docker-compose is the one part that is played: it
runs `groundcrew` here instead of in a container. Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_get_weights.py
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contract.registry import ZOO, Registry
from contract.settings import read_settings
from groundcrew.child import bare_environment
from tests.docs_blocks import REPOSITORY
from tests.services.s3_server import demand_keys, serve_s3

TINY = ZOO / "tiny-shapes"
CONFIG = "grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det"
#: docker-compose run --rm -T --no-deps -v FOLDER:/from:ro crew ARGUMENTS, without the container around it
COMPOSE = f"""#!/usr/bin/env bash
set -euo pipefail
[ "$1 $2 $3 $4 $5" = "run --rm -T --no-deps -v" ] && [ "$7" = crew ]
from=${{6%%:*}}
shift 7
arguments=("${{@//\\/from\\//$from/}}")
exec {sys.executable} -m groundcrew "${{arguments[@]/#{CONFIG}/{TINY}/config.py}}"
"""


class Shelf(ThreadingHTTPServer):
    """Serves bytes by the last part of the path, notes what was asked for, and cuts off as often as it is told."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.cuts, self.ranges = files, [], 0, True
        super().__init__(("127.0.0.1", 0), _Hand)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Hand(BaseHTTPRequestHandler):
    server: Shelf

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        body, first = self.server.files[name], int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append((name, first))
        first = first if self.server.ranges else 0
        if first >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        cut = self.server.cuts > 0 and len(body) > 100_000
        self.server.cuts -= cut
        self.wfile.write(body[first : first + (len(body) - first) // 2] if cut else body[first:])

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The tiny model under the names of the real one."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": load_file(TINY / "model.safetensors")}, path)
    body = path.read_bytes()
    names = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    bert = {name: (TINY / "bert" / name).read_bytes() for name in names if (TINY / "bert" / name).exists()}
    return {f"{CONFIG}_20231204_095047-{digest(body)[:8]}.pth": body, **bert}


@pytest.fixture
def shelf(files):
    server = Shelf(dict(files))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def place(tmp_path, files) -> Path:
    """A checkout with the script, the sums of what is served, and a .env."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(REPOSITORY / "deploy" / "get_weights", tmp_path / "deploy")
    lines = [f"{digest(body)}  {path_of(name)}\n" for name, body in files.items()]
    (tmp_path / "deploy" / "weights.sha256").write_text("# a comment\n" + "".join(lines))
    (tmp_path / ".env").write_text("CONFIG_FILE=\nDEVICE=auto\nLANG_MODEL=\n")
    (tmp_path / "bin" / "docker-compose").write_text(COMPOSE)
    (tmp_path / "bin" / "docker-compose").chmod(0o755)
    return tmp_path


@pytest.fixture
def get_weights(place, shelf) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = bare_environment({
            "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
            "WEIGHTS_URL": shelf.url, "BERT_URL": f"{shelf.url}/bert", "MODEL_DIR": str(place / "models"), **variables,
        })  # fmt: skip
        return subprocess.run([place / "deploy" / "get_weights", *arguments], env=environment, timeout=300,
                              capture_output=True, text=True, check=False)  # fmt: skip

    return run


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def path_of(name: str) -> str:
    return name if name.endswith(".pth") else f"bert-base-uncased/{name}"


def settings_of(place: Path) -> dict[str, str]:
    """What .env holds, as this machine sees the containers' /models."""
    lines = [line.partition("=") for line in (place / ".env").read_text().splitlines()]
    return {name: value.replace("/models/", f"{place}/models/") for name, _, value in lines}


def test_weights_are_downloaded_registered_and_named_in_env(get_weights, place, files):
    # when
    done = get_weights()

    # then
    assert done.returncode == 0, done.stderr
    assert all(digest((place / "weights" / path_of(name)).read_bytes()) == digest(body) for name, body in files.items())
    folder = "/models/versions/mm-grounding-dino-swin-t-1"
    assert (place / ".env").read_text().splitlines() == [
        "DEVICE=auto", f"CONFIG_FILE={folder}/config.py", f"CHECKPOINT_FILE={folder}/model.safetensors",
        f"LANG_MODEL={folder}/bert",
    ]  # fmt: skip
    # and it is the base of a crew that has these three lines
    registry = Registry(read_settings({**settings_of(place), "MODEL_DIR": str(place / "models")}))
    assert [listed.ref for listed in registry.list()] == [registry.base.ref] == ["mm-grounding-dino-swin-t-1"]


def test_registered_in_a_bucket_they_come_to_this_host_too(get_weights, place, tmp_path):
    with serve_s3(tmp_path) as access:
        keys = demand_keys(access["AWS_ENDPOINT_URL"], "crew")
        variables = access | {"AWS_ACCESS_KEY_ID": keys.key_id, "AWS_SECRET_ACCESS_KEY": keys.secret}
        done = get_weights(**variables, MODEL_DIR="s3://crew/models", MODEL_CACHE_DIR=str(place / "models"))

    assert done.returncode == 0, done.stderr
    base = Registry(read_settings(settings_of(place))).base
    assert base.ref == "mm-grounding-dino-swin-t-1"
    assert base.checkpoint.exists()


def test_a_second_run_downloads_nothing_and_changes_nothing(get_weights, place, shelf):
    assert get_weights().returncode == 0
    env, asked = (place / ".env").read_text(), len(shelf.asked)

    assert get_weights().returncode == 0

    assert ((place / ".env").read_text(), len(shelf.asked)) == (env, asked)


def test_a_download_that_is_cut_off_goes_on_from_there(get_weights, shelf, files):
    shelf.cuts = 2
    done = get_weights("--download-only")

    assert done.returncode == 0, done.stderr
    (weights,) = [name for name in files if name.endswith(".pth")]
    size = len(files[weights])
    second = size // 2
    starts = [first for name, first in shelf.asked if name == weights]
    assert starts == [0, second, second + (size - second) // 2]


def test_a_part_of_an_earlier_run_is_gone_on_with(get_weights, place, shelf, files):
    (weights,) = [name for name in files if name.endswith(".pth")]
    (place / "weights").mkdir()
    (place / "weights" / f"{weights}.part").write_bytes(files[weights][:1000])

    assert get_weights("--download-only").returncode == 0

    assert (weights, 1000) in shelf.asked
    assert (weights, 0) not in shelf.asked


def test_a_server_that_cannot_go_on_from_a_place_is_asked_for_the_whole(get_weights, place, shelf, files):
    (weights,) = [name for name in files if name.endswith(".pth")]
    shelf.ranges = False
    (place / "weights").mkdir()
    (place / "weights" / f"{weights}.part").write_bytes(b"x" * 1000)

    assert get_weights("--download-only").returncode == 0

    assert digest((place / "weights" / weights).read_bytes()) == digest(files[weights])


@pytest.mark.parametrize("ending", [".pth", "vocab.txt"])
def test_another_file_is_thrown_away_and_nothing_is_registered(get_weights, place, shelf, files, ending):
    # given
    (name,) = [name for name in files if name.endswith(ending)]
    shelf.files[name] = b"of the same length or not"
    env = (place / ".env").read_text()

    # when
    done = get_weights()

    # then
    assert done.returncode == 1
    assert digest(shelf.files[name]) in done.stderr
    assert digest(files[name]) in done.stderr
    assert not list((place / "weights").rglob(f"{name}*"))
    assert (place / ".env").read_text() == env
    assert not (place / "models").exists()


def test_a_server_that_is_gone_leaves_what_is_there(get_weights, place, shelf, files):
    (weights,) = [name for name in files if name.endswith(".pth")]
    (place / "weights").mkdir()
    (place / "weights" / f"{weights}.part").write_bytes(files[weights][:1000])
    shelf.shutdown()
    shelf.server_close()

    done = get_weights("--download-only")

    assert done.returncode == 1
    assert "run this again" in done.stderr
    assert (place / "weights" / f"{weights}.part").read_bytes() == files[weights][:1000]
