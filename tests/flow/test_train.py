"""Guarantees of worker/train.py with the tiny model: a whole version or none, cancel, resume, and what learns."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from contract.errors import JobCancelled, OutOfDeviceMemory, SettingsError, TrainingDataError
from tests.fakes.shape_project import TINY, make_shape_project, tiny_base
from worker.dataset import Category
from worker.detectors.base import ModelSource
from worker.detectors.mmgdino import load
from worker.train import Progress, TrainOptions, read_options, train
from worker.training.loop import TrainingDiverged, UpdateLoop, cut
from worker.training.run import Run
from worker.training.samples import SampleSet
from worker.training.stream import NumberSampler

pytestmark = pytest.mark.slow  # real trainings, seconds each: `make test` runs them after the quick ones

QUICK = TrainOptions(
    iterations=4,
    batch_size=2,
    scale_range=(0.5, 0.5),
    crop_chance=0.0,
    validations=2,
    average_momentum=0.5,
    learning_rate=1e-3,
    save_every_s=3600,
)
EACH_ITERATION_S = 1e-6  #: as `save_every_s`


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    return make_shape_project(tmp_path_factory.mktemp("project"), train=4, val=1)


def run(
    project: SampleSet,
    work_dir: Path,
    options: TrainOptions = QUICK,
    base: ModelSource | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Path, list[Progress]]:
    seen: list[Progress] = []
    version = train(
        base or tiny_base(), project, work_dir, options, report=seen.append, cancelled=cancelled, device="cpu"
    )
    return version, seen


@pytest.fixture(scope="module")
def trained(project: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    return run(project, tmp_path_factory.mktemp("trained"))


def read_iterations(work_dir: Path) -> list[int]:
    return [json.loads(line)[0] for line in (work_dir / "losses.jsonl").read_text().splitlines()]


def load_version(version: Path) -> object:
    return load(ModelSource("tuned", "1", str(version / "config.py"), version / "model.safetensors"), "cpu")


# -- what comes out --------------------------------------------------------------------------------------------------


def test_version_holds_everything_it_needs(trained: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    # given a version that was moved, so that no path of the training can help
    version = shutil.copytree(trained[0], tmp_path / "elsewhere")
    # then all files are there, and it loads strictly, with the language model beside it
    wanted = {"config.py", "model.safetensors", "bert", "loss.png", "train.json", "replay.zip", "recipe.json"}
    assert wanted == {path.name for path in version.iterdir()}
    load_version(version)
    name = Config.fromfile(version / "config.py").model.language_model.name
    assert Path(name) == version / "bert"
    assert (version / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_weights_are_stored_as_the_bases_are(trained: tuple[Path, list[Progress]]) -> None:
    base, tuned = load_file(TINY / "model.safetensors"), load_file(trained[0] / "model.safetensors")
    assert {name: (value.dtype, value.shape) for name, value in base.items()} == {
        name: (value.dtype, value.shape) for name, value in tuned.items()
    }


def test_progress_counts_up_to_the_end(trained: tuple[Path, list[Progress]]) -> None:
    progress = trained[1]
    assert [one.iteration for one in progress] == sorted({one.iteration for one in progress})
    assert progress[-1].iteration == progress[-1].iterations == QUICK.iterations
    # four updates of two images, half of them replayed, over four images
    assert progress[-1].epoch == 1.0
    assert progress[-1].eta_s == 0


def test_log_says_how_it_was_made(trained: tuple[Path, list[Progress]]) -> None:
    log = json.loads((trained[0] / "train.json").read_text())
    assert log["iterations"] == QUICK.iterations
    assert log["options"]["learning_rate"] == QUICK.learning_rate
    assert 0 <= log["best_weighted_map"] <= 1
    assert log["replay"] is True


def test_frozen_parts_stay_and_others_learn(trained: tuple[Path, list[Progress]]) -> None:
    # given the defaults: backbone and language model are frozen
    base, tuned = load_file(TINY / "model.safetensors"), load_file(trained[0] / "model.safetensors")
    # then they are the base's to the last bit, statistics of batch normalisation too, and everything else moved on
    changed = {name.split(".")[0] for name in base if not torch.equal(base[name], tuned[name])}
    assert not {"backbone", "language_model"} & changed
    assert {"encoder", "decoder", "bbox_head", "neck"} <= changed


def test_parts_with_a_factor_learn(project: SampleSet, tmp_path: Path) -> None:
    # when
    version, _ = run(project, tmp_path, dataclasses.replace(QUICK, backbone_factor=1.0, language_factor=1.0))
    # then
    base, tuned = load_file(TINY / "model.safetensors"), load_file(version / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert {"backbone", "language_model"} <= {name.split(".")[0] for name in changed}
    assert not any("running" in name for name in changed)


def test_finished_training_is_not_repeated(project: SampleSet, trained: tuple[Path, list[Progress]]) -> None:
    version, progress = run(project, trained[0].parent)
    assert version == trained[0]
    assert progress == []


# -- ending early ----------------------------------------------------------------------------------------------------


def test_cancelled_training_leaves_no_version(project: SampleSet, tmp_path: Path) -> None:
    # given somebody who cancels before the third update
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 2

    # when / then
    with pytest.raises(JobCancelled):
        run(project, tmp_path, cancelled=cancelled)
    assert read_iterations(tmp_path) == [1, 2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("version")]


def test_killed_training_goes_on_from_its_checkpoint(project: SampleSet, tmp_path: Path) -> None:
    # given what is left of a trainer that was killed after its third update, while it wrote files
    options = dataclasses.replace(QUICK, iterations=5, validations=1, save_every_s=EACH_ITERATION_S)
    run_until(project, tmp_path, options, stop_at=3)
    (tmp_path / "last.pth.part").write_bytes(b"half a checkpoint")
    (tmp_path / "version.part").mkdir()
    with (tmp_path / "losses.jsonl").open("a") as file:
        file.write("[4, 1.")
    # when another one takes over
    version, progress = run(project, tmp_path, options)
    # then it begins where the checkpoint ended, and no iteration is missing or there twice
    assert progress[0].iteration == 4
    assert read_iterations(tmp_path) == [1, 2, 3, 4, 5]
    assert not (tmp_path / "version.part").exists()
    load_version(version)


def run_until(project: SampleSet, work_dir: Path, options: TrainOptions, stop_at: int) -> None:
    """Cancel before the update after `stop_at`, whose checkpoint is written."""

    def cancelled() -> bool:
        losses = work_dir / "losses.jsonl"
        return losses.exists() and len(losses.read_text().splitlines()) >= stop_at

    with pytest.raises(JobCancelled):
        run(project, work_dir, options, cancelled=cancelled)


def test_checkpoint_carries_no_code(project: SampleSet, tmp_path: Path) -> None:
    # given
    options = dataclasses.replace(QUICK, save_every_s=EACH_ITERATION_S)
    # when
    run_until(project, tmp_path, options, stop_at=1)
    # then torch reads it without running anything, and the moving average is in it
    checkpoint = torch.load(tmp_path / "last.pth", weights_only=True)
    assert checkpoint["meta"]["iter"] == 1
    assert checkpoint["ema_state_dict"]


def test_training_ends_within_its_time(project: SampleSet, tmp_path: Path) -> None:
    # when the time is over at once
    version, progress = run(project, tmp_path, dataclasses.replace(QUICK, iterations=500, time_limit_s=1e-3))
    # then there is a version nevertheless, of a single update
    assert progress[-1].iteration == 1
    assert progress[-1].eta_s == 0
    load_version(version)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_nothing_to_learn(project: SampleSet, tmp_path: Path) -> None:
    empty = SampleSet(project.categories, [project.train[-1]], project.val)
    with pytest.raises(TrainingDataError, match="annotate"):
        run(empty, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_no_val_images_publish_the_last_weights(project: SampleSet, tmp_path: Path) -> None:
    version, progress = run(SampleSet(project.categories, project.train, []), tmp_path)
    assert progress[-1].map is None
    load_version(version)


@pytest.mark.parametrize(
    "bad", [{"speed": 3}, {"epochs": 0}, {"epochs": "many"}, {"replay_part": 1}, {"scale_range": 1}], ids=str
)
def test_bad_options(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="|".join(bad)):
        read_options(None, bad)


def test_options_come_from_the_base_and_then_from_the_caller(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"iterations": 7, "scale_range": [0.9, 1.1]}')
    options = read_options(tmp_path, {"iterations": "8"})
    assert (options.iterations, options.scale_range) == (8, (0.9, 1.1))
    assert options.learning_rate == TrainOptions.learning_rate


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_stream_gives_each_number_the_same_view(project: SampleSet, tmp_path: Path) -> None:
    # given the streams of a trainer and of one that goes on with its work
    first, second = (Run(tiny_base(), project, tmp_path, QUICK, "cpu")._stream for _ in range(2))
    # then
    for number in (0, 7, 1000):
        assert torch.equal(first[number]["inputs"], second[number]["inputs"])
        assert first[number]["data_samples"].text == second[number]["data_samples"].text


def test_half_of_the_images_are_replayed(project: SampleSet, tmp_path: Path) -> None:
    stream = Run(tiny_base(), project, tmp_path, QUICK, "cpu")._stream
    own = {"red circle", "blue square", "purple cross"}
    texts = [set(stream[number]["data_samples"].text.strip(". ").split(". ")) for number in range(20)]
    assert sum(names <= own for names in texts) == 10
    # and the new name is looked for in replayed images too, where it finds nothing
    assert any("purple cross" in names for names in texts if not names <= own)


def test_boxes_lie_on_what_they_name(project: SampleSet, tmp_path: Path) -> None:
    # given views that are cut, mirrored and scaled
    options = dataclasses.replace(QUICK, crop_chance=1.0, flip_chance=1.0, scale_range=(1.0, 1.0), replay_part=0.0)
    stream = Run(tiny_base(), project, tmp_path, options, "cpu")._stream
    seen = 0
    for number in range(24):
        packed = stream[number]
        sample = packed["data_samples"]
        for box, label in zip(sample.gt_instances.bboxes, sample.gt_instances.labels, strict=True):
            spans = sample.tokens_positive[int(label)]
            name = sample.text[spans[0][0] : spans[0][1]]
            if name == "red circle":  # a disc: its centre is filled, unless the view cut half of it away
                x, y = ((box[:2] + box[2:]) / 2).long().tolist()
                blue, green, red = packed["inputs"][:, y, x].tolist()
                assert red > 2 * max(green, blue)
                seen += 1
    assert seen > 5


def test_views_are_not_mirrored_where_names_tell_sides(project: SampleSet, tmp_path: Path) -> None:
    sided = SampleSet([Category(1, "hand", ("left hand",)), *project.categories[1:]], project.train, project.val)
    assert Run(tiny_base(), sided, tmp_path, QUICK, "cpu")._stream.how.flip_chance == 0
    assert Run(tiny_base(), project, tmp_path, QUICK, "cpu")._stream.how.flip_chance > 0


# -- memory ----------------------------------------------------------------------------------------------------------


class SmallMemory(nn.Module):
    """A model of one weight that computes at most `limit` images at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.limit = limit
        self.sizes: list[int] = []

    def data_preprocessor(self, batch: dict[str, list[Tensor]], training: bool) -> dict[str, list[Tensor]]:
        return batch

    def forward(self, inputs: list[Tensor], data_samples: list[None], mode: str) -> Tensor:
        self.sizes.append(len(inputs))
        if len(inputs) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.weight * torch.stack([image.mean() for image in inputs]).mean()

    def parse_losses(self, loss: Tensor) -> tuple[Tensor, None]:
        return loss, None


class PlainRunner:
    """As much of mmengine's Runner as the loop needs; keeps the gradient of each update."""

    class Optimiser:
        def __init__(self, model: SmallMemory) -> None:
            self.model, self.gradients = model, []

        def backward(self, loss: Tensor) -> None:
            loss.backward()

        def step(self) -> None:
            self.gradients.append(float(self.model.weight.grad))

        def zero_grad(self) -> None:
            self.model.weight.grad = None

    def __init__(self, model: SmallMemory) -> None:
        self.model, self.optim_wrapper = model, self.Optimiser(model)

    def call_hook(self, name: str, **details: object) -> None:
        """Nobody listens."""


def run_loop(model: SmallMemory, images: list[Tensor], updates: int = 1, done: int = 0) -> list[float]:
    """The gradient of each update, after `done` of them in another trainer."""
    batches = DataLoader(
        images, len(images) // updates, sampler=NumberSampler(0, len(images)),
        collate_fn=lambda part: {"inputs": part, "data_samples": [None] * len(part)},
    )  # fmt: skip
    runner = PlainRunner(model)
    loop = UpdateLoop(runner, batches, iterations=updates, chunk_size=len(images), processes=1)
    loop._iter = done  # as mmengine's Runner does when it resumes
    loop.run()
    return runner.optim_wrapper.gradients


def test_resumed_loop_goes_on_with_the_next_images() -> None:
    images = [torch.full((3, 2, 2), float(value)) for value in range(6)]
    assert run_loop(SmallMemory(limit=9), images, updates=3, done=1) == [2.5, 4.5]


def test_smaller_chunks_when_memory_runs_out() -> None:
    # given eight images on a device that takes three
    images = [torch.full((3, 2, 2), float(value)) for value in range(8)]
    model = SmallMemory(limit=3)
    # when / then the update is that of the whole batch, in pieces that fit
    assert run_loop(model, images) == [pytest.approx(np.mean(range(8)))]
    assert model.sizes == [8, 4, 2, 2, 2, 2]


def test_not_even_one_image_fits() -> None:
    with pytest.raises(OutOfDeviceMemory, match="smaller images"):
        run_loop(SmallMemory(limit=0), [torch.zeros(3, 2, 2)] * 4)


def test_images_of_different_sizes_never_share_a_chunk() -> None:
    assert cut([(1,), (2,), (1,), (1,)], limit=2) == [[0, 2], [3], [1]]


def test_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        run_loop(SmallMemory(limit=1), [torch.full((3, 2, 2), torch.nan)])


# -- full size -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", ["grounding_dino_swin-t_pretrain_obj365", "mm_grounding_dino/grounding_dino_swin-t_finetune_8xb4_20e_cat"]
)
def test_full_size_model_trains_on_the_cpu(project: SampleSet, tmp_path: Path, thin_bert: Path, config: str) -> None:
    # given Swin-T of mmdet's wheel with random weights and a thin BERT of the usual width; the second of the configs
    # has room for a single label in its denoising part
    base = ModelSource("swin-t", "0", config, lang_model=thin_bert)
    options = dataclasses.replace(QUICK, iterations=2, batch_size=1, scale_range=(0.3, 0.3))
    # when
    version, progress = run(SampleSet(project.categories, project.train, []), tmp_path / "work", options, base)
    # then two updates were made, and the version loads and predicts
    assert progress[-1].iteration == 2
    detector = load_version(version)
    image = np.full((200, 200, 3), 90, np.uint8)
    assert len(detector.detect([image], ("red circle",), score_threshold=0.0, nms_iou=None)) == 1
