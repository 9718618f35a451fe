"""Guarantees of worker/detectors/checkpoints.py: nothing in a file runs, and only weights that fit are loaded."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import Tensor, nn

from contract.errors import CheckpointMismatch, CheckpointRefused
from worker.detectors.checkpoints import load_strictly, read_state_dict


class Points(torch.utils.data.Dataset):
    """A data set such as mmdet's: it carries metadata, part of it straight from a config."""

    def __init__(self) -> None:
        self.metainfo = {
            "classes": ("cat", "dog"),
            "palette": [(1, 2, 3)],
            "note": ConfigDict(by=ConfigDict(year=2024)),
        }

    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"inputs": torch.full((2,), float(position))}


class Regression(BaseModel):
    """The smallest model that mmengine trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("position_ids", torch.arange(3))

    def forward(self, inputs: Tensor, data_samples: None = None, mode: str = "loss") -> dict[str, Tensor]:
        return {"loss": self.norm(self.linear(inputs)).square().mean()}


@pytest.fixture(scope="module")
def runner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mmengine's Runner saves after an epoch: optimizer, schedulers, message hub, metadata, EMA."""
    work_dir = tmp_path_factory.mktemp("runner")
    with warnings.catch_warnings(action="ignore"):
        Runner(
            model=Regression(),
            work_dir=str(work_dir),
            train_dataloader={
                "dataset": Points(),
                "batch_size": 2,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "collate_fn": {"type": "default_collate"},
            },
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3}},
            param_scheduler=[{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 3}],
            custom_hooks=[{"type": "EMAHook"}],
            default_hooks={"logger": {"type": "LoggerHook", "interval": 1}},
            log_level=logging.ERROR,
        ).train()
    return work_dir / "epoch_1.pth"


def test_a_file_of_mmengine_gives_its_weights(runner_file: Path) -> None:
    # Given a file that torch alone refuses for what mmengine logs
    with pytest.raises(pickle.UnpicklingError):
        torch.load(runner_file, weights_only=True)

    state = read_state_dict(runner_file)

    trusted = torch.load(runner_file, weights_only=False)["state_dict"]
    assert state.keys() == trusted.keys()
    assert all(torch.equal(state[key], trusted[key]) for key in state)
    load_strictly(Regression(), state)


def test_a_file_written_under_numpy_1_gives_its_weights(runner_file: Path, tmp_path: Path) -> None:
    # Given the module names that NumPy 1 pickled, as in the published files of 2023
    old = tmp_path / "numpy1.pth"
    with zipfile.ZipFile(runner_file) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in old.read_bytes()

    assert read_state_dict(old).keys() == read_state_dict(runner_file).keys()


def test_nothing_of_the_log_is_built(runner_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that unpickling a HistoryBuffer of mmengine writes into its class
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", {})

    read_state_dict(runner_file)

    assert HistoryBuffer._statistics_methods == {}


def test_safetensors_give_their_weights(tmp_path: Path) -> None:
    save_file({"linear.weight": torch.ones(3, 2, dtype=torch.float16)}, tmp_path / "tiny.safetensors")

    assert read_state_dict(tmp_path / "tiny.safetensors")["linear.weight"].shape == (3, 2)


def test_a_bare_state_dict_gives_its_weights(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "bare.pth")

    assert set(read_state_dict(tmp_path / "bare.pth")) == {"weight", "bias"}


class Calls:
    """Pickles as a call of any function: what a hostile file does."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (Calls(os.system, "touch owned"), "posix.system"),
        (Calls(eval, "open('owned', 'w')"), "eval"),
        (Calls(getattr, Path, "touch"), "pathlib.Path"),
        (Calls(np.save, "owned.npy", [1]), "numpy.save"),
        (nn.Linear(2, 3), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_file_that_wants_to_run_code_is_refused_and_the_code_is_named(
    payload: object, named: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"weight": torch.zeros(1)}, "meta": payload}
    torch.save(content, "evil.pth", _use_new_zipfile_serialization=zipped)

    with pytest.raises(CheckpointRefused, match=f"{named}, which is not data"):
        read_state_dict(Path("evil.pth"))

    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("payload", [Calls(getattr, dict, "pop"), Calls(np.dtype, "f8"), Calls(np.ndarray, (2,))])
def test_an_allowed_name_used_in_another_way_stays_inert(payload: object, tmp_path: Path) -> None:
    # Given names of the allow-list: none of them may yield a real object where a weight belongs
    torch.save({"state_dict": {"weight": payload}}, tmp_path / "odd.pth")

    with pytest.raises(CheckpointRefused):
        read_state_dict(tmp_path / "odd.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>404 Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        pickle.dumps({"weight": 1}),
        b"\x80\x02" + b"\xff" * 50,
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_what_is_no_checkpoint_is_refused(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(CheckpointRefused, match="is damaged or not a checkpoint") as refused:
        read_state_dict(tmp_path / name)

    assert "weights_only" not in refused.value.message  # torch's own advice here is to switch the check off


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_anywhere_is_refused(zipped: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": Regression().state_dict()}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pth").read_bytes()
    cut = tmp_path / "cut.pth"

    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointRefused):
            read_state_dict(cut)


@pytest.mark.parametrize("content", [{"model": {"weight": torch.zeros(1)}}, {"state_dict": {}}, [torch.zeros(1)], {}])
def test_a_file_without_weights_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")

    with pytest.raises(CheckpointRefused, match="holds no state_dict"):
        read_state_dict(tmp_path / "other.pth")


def test_a_missing_file_is_refused_and_the_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="CHECKPOINT_FILE"):
        read_state_dict(tmp_path / "none.pth")


def renamed(state: dict[str, Tensor]) -> None:
    state["linear.wieght"] = state.pop("linear.weight")


def incomplete(state: dict[str, Tensor]) -> None:
    del state["norm.running_mean"]


def extended(state: dict[str, Tensor]) -> None:
    state["head.weight"] = torch.zeros(1)


def reshaped(state: dict[str, Tensor]) -> None:
    state["linear.weight"] = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (renamed, r"1 missing: linear\.weight\. 1 unexpected: linear\.wieght\."),
        (incomplete, r"1 missing: norm\.running_mean\."),
        (extended, r"1 unexpected: head\.weight\."),
        (reshaped, r"1 of another shape: linear\.weight \(4, 2\) instead of \(3, 2\)\."),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_list(
    change: Callable[[dict[str, Tensor]], None], complaint: str
) -> None:
    model, state = Regression(), dict(Regression().state_dict())
    before = model.linear.weight.clone()
    change(state)

    with pytest.raises(CheckpointMismatch, match=complaint):
        load_strictly(model, state)

    assert torch.equal(model.linear.weight, before)


def test_a_long_list_is_shortened() -> None:
    with pytest.raises(CheckpointMismatch, match=r"25 unexpected: w00, (w\d\d, ){8}w09 and 15 more\.$"):
        load_strictly(nn.ReLU(), {f"w{number:02}": torch.zeros(1) for number in range(25)})


@pytest.mark.parametrize("buffer", ["position_ids", "norm.num_batches_tracked"])
def test_buffers_that_come_and_go_are_excused(buffer: str) -> None:
    state = Regression().state_dict()
    value = state.pop(buffer)

    load_strictly(Regression(), state)
    load_strictly(Regression(), {**state, buffer: value, f"bert.embeddings.{buffer}": value})


def test_half_precision_is_widened_to_the_precision_of_the_model() -> None:
    model = Regression()
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}

    load_strictly(model, state)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
