"""One bad image in a full batch of a real worker process: it fails alone, with its reason; its seven neighbours do not.

Run by: pytest. Real Redis and worker; only the detector is made up, as a real one raises when it pleases.
Must not import: torch, mmdet.
Example: pytest tests/services/test_bad_images.py
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from PIL import Image

from benchmarks.faults_site import image_uri, label_config
from benchmarks.faults_worker import RAISE
from contract.broker import make_celery, send
from contract.heartbeats import alive
from contract.jobs import PredictJob
from contract.settings import Settings, read_settings, to_environment
from contract.status import JobRecords
from groundcrew.child import Child, bare_environment
from tests.fakes.jobs import predict_job
from tests.services.machine import REPOSITORY
from tests.services.waiting import wait_until

BATCH_SIZE = 8
CALL_S = 1.0  #: of the detector: what comes meanwhile is the next batch
FAILED_TOGETHER = re.compile(r"unexpected ValueError with [2-8] images")  #: the worker's log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images on the worker's own disk, which it reads on a way of its own, and what only looks like one."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "good.png").write_bytes(png(16, 12))
    (folder / "cut.png").write_bytes(png(16, 12)[:50])
    (folder / "wide.png").write_bytes(png(101, 100))
    (folder / "link.png").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def settings(redis_url: str, folder: Path) -> Settings:
    return read_settings({"REDIS_URL": redis_url, "BATCH_SIZE": str(BATCH_SIZE), "IMAGE_LIMIT_PX": "10000",
                          "LOCAL_FILES_ROOT": str(folder)})  # fmt: skip


@pytest.fixture(scope="module")
def worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    log_path = tmp_path_factory.mktemp("bad-images") / "worker.log"
    env = bare_environment(to_environment(settings)) | {"PYTHONPATH": str(REPOSITORY), "FAULT_CALL_S": str(CALL_S)}
    process = Child.start([sys.executable, "-m", "benchmarks.faults_worker"], env=env, log_path=log_path)
    yield process
    process.stop()


def png(width_px: int, height_px: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "green").save(buffer, "PNG")
    return buffer.getvalue()


def as_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def near(name: str) -> str:
    return f"/data/local-files/?d={name}"


@pytest.mark.parametrize(
    ("bad", "code", "reason"),
    [
        (as_uri(png(16, 12)[:50]), "image_unreadable", "the image is damaged"),
        (as_uri(b"no image at all"), "image_unreadable", "no image in a known format"),
        (as_uri(png(101, 100)), "image_too_large", "101 x 100 pixels, more than IMAGE_LIMIT_PX=10000"),
        ("http://169.254.169.254/a.png", "image_forbidden", "is a private address"),
        (image_uri(RAISE), "internal_error", "unexpected ValueError: yellow is too much"),
        (near("cut.png"), "image_unreadable", "the image is damaged"),
        (near("wide.png"), "image_too_large", "101 x 100 pixels, more than IMAGE_LIMIT_PX=10000"),
        (near("gone.png"), "image_not_found", "there is no file gone.png"),
        (near("link.png"), "image_forbidden", "lies outside the configured directory"),
        (near("pipe.png"), "image_forbidden", "is not a regular file"),
    ],
    ids=["cut short", "no image", "too large", "forbidden", "the detector raises", "near cut", "near wide", "near gone",
         "near link", "near pipe"],
)  # fmt: skip
def test_a_bad_image_fails_alone_in_its_batch(
    client: redis.Redis, settings: Settings, worker: Child, bad: str, code: str, reason: str
) -> None:
    # given a worker whose detector is busy with one image, so that what comes now is its next batch
    records, app = JobRecords(client, failed_memory_s=600), make_celery(settings)
    wait_until(lambda: bool(alive(client)), "the worker", worker.log_tail)
    config_id = records.save_config(label_config("red circle"), {})
    images = [image_uri(), near("good.png"), *[image_uri()] * 6, near("good.png")]
    images[5] = bad
    jobs = [predict_job(n + 1, config_id=config_id, image=image) for n, image in enumerate(images)]

    def state(job: PredictJob) -> object:
        return records.get(job.id)["state"]

    # when eight more come, one of which is bad
    send(app, records.admit(jobs[:1]), shards=settings.queue_shards)
    wait_until(lambda: state(jobs[0]) == "running", "the first image", worker.log_tail)
    send(app, records.admit(jobs[1:]), shards=settings.queue_shards)
    wait_until(lambda: not {"queued", "running"} & {state(job) for job in jobs}, "the batch", worker.log_tail)

    # then seven are on their way to Label Studio, and the bad one says why it is not
    assert [state(job) for job in jobs] == ["writing"] * 5 + ["failed"] + ["writing"] * 3
    failed = records.get(jobs[5].id)
    assert (failed["code"], reason in str(failed["reason"])) == (code, True), failed
    assert records.counts(1)["failed"] == 1
    if bad == image_uri(RAISE):
        assert FAILED_TOGETHER.search(worker.log_text())  # they did share a call
