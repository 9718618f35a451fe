"""Guarantees of worker/training/parallel.py: two processes, started by torchrun, are one training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from contract.errors import JobCancelled
from tests.fakes.shape_project import make_shape_project, tiny_base
from tests.services.processes import LOOPBACK, listening_addresses, processes_about, wait_for_end_of
from worker.detectors.base import ModelSource
from worker.detectors.mmgdino import load
from worker.train import Progress, TrainOptions, train
from worker.training.parallel import TrainingProcessFailed
from worker.training.samples import SampleSet

pytestmark = pytest.mark.services

TWO = TrainOptions(
    processes=2, iterations=3, batch_size=2, scale_range=(0.5, 0.5), crop_chance=0.0, validations=1, save_every_s=1e-6
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    return make_shape_project(tmp_path_factory.mktemp("project"), train=4, val=1)


def test_two_processes_make_one_version(project: SampleSet, tmp_path: Path) -> None:
    # when
    seen: list[Progress] = []
    listening: set[str] = set()

    def report(progress: Progress) -> None:
        seen.append(progress)
        listening.update(*(listening_addresses(pid) for pid in processes_about(str(tmp_path))))

    version = train(tiny_base(), project, tmp_path, TWO, report=report, cancelled=lambda: False, device="cpu")
    # then each iteration is counted once and shows the images of both processes: 3 x 2 x 2, half of them replayed
    assert seen[-1].iteration == 3
    assert seen[-1].epoch == 1.5
    lines = (tmp_path / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [1, 2, 3]
    assert json.loads((version / "train.json").read_text())["processes"] == 2
    # and whatever they listened on for each other cannot be reached from elsewhere
    assert listening
    assert listening <= LOOPBACK
    load(ModelSource("tuned", "1", str(version / "config.py"), version / "model.safetensors"), "cpu")


def test_cancel_ends_both_processes(project: SampleSet, tmp_path: Path) -> None:
    # given a long training, cancelled after its first progress
    seen: list[Progress] = []
    options = dataclasses.replace(TWO, iterations=10_000, validations=1)
    # when / then
    with pytest.raises(JobCancelled):
        train(tiny_base(), project, tmp_path, options, report=seen.append, cancelled=lambda: bool(seen), device="cpu")
    wait_for_end_of(str(tmp_path))
    assert not (tmp_path / "version").exists()


def test_failure_of_a_process_is_told(project: SampleSet, tmp_path: Path) -> None:
    # given an image that vanished after the export
    gone = dataclasses.replace(project.train[0], image_path=tmp_path / "gone.png")
    broken = SampleSet(project.categories, [gone], project.val)
    # when / then
    with pytest.raises(TrainingProcessFailed, match=r"gone\.png"):
        train(tiny_base(), broken, tmp_path / "work", TWO, report=lambda _: None, cancelled=lambda: False, device="cpu")
