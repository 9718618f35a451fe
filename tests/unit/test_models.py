"""Versions are loaded once, beside running batches of others, and a failure is not tried again at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contract.errors import CheckpointMismatch
from contract.registry import ModelVersion
from contract.settings import read_settings
from worker.detectors.base import Boxes
from worker.models import Look, Models

PIXELS = np.zeros((4, 4, 3), dtype=np.uint8)


class OneRegistry:
    """Knows every name."""

    def fetch(self, ref):
        return ModelVersion(name=ref, version="1", config="", checkpoint=Path("none"))


class NoDetector:
    """Finds nothing."""

    def detect(self, images, prompts, *, score_threshold, nms_iou, groups=None):
        return [Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in images]

    def warm_up(self):
        pass


def look(ref):
    return Look(ref, ("red circle",), (0,), 0.3)


@pytest.fixture
def make_models():
    made = []

    def make(load):
        made.append(Models(OneRegistry(), load, read_settings({})))
        return made[-1]

    yield make
    for models in made:
        models.batcher.close()


def test_batches_of_a_loaded_version_go_on_while_another_one_loads(make_models):
    begun, gate = threading.Event(), threading.Event()

    def load(version):
        if version.name == "slow":
            begun.set()
            assert gate.wait(60)
        return NoDetector()

    models = make_models(load)
    models.detect_all(look("ready"), [PIXELS], urgent=False)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(models.detect_all, look("slow"), [PIXELS], urgent=False)
        assert begun.wait(60)
        try:
            beside = pool.submit(models.detect_all, look("ready"), [PIXELS], urgent=False)
            assert len(beside.result(60)[0]) == 0
            assert not slow.done()
        finally:
            gate.set()
        assert len(slow.result(60)[0]) == 0


def test_many_jobs_of_a_new_version_load_it_once(make_models):
    loads = []
    models = make_models(lambda version: loads.append(version.name) or NoDetector())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: models.detect_all(look("new"), [PIXELS], urgent=False), range(20)))
    assert loads == ["new"]


def test_a_version_that_does_not_load_is_not_tried_again_at_once(make_models):
    loads = []

    def load(version):
        loads.append(version.name)
        raise CheckpointMismatch("3 keys are missing")

    models = make_models(load)
    for _ in range(3):
        with pytest.raises(CheckpointMismatch, match="3 keys are missing"):
            models.detect_all(look("bad"), [PIXELS], urgent=False)
    assert loads == ["bad"]
