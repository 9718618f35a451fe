"""Reads weights from files without running what they carry, and loads them only into a model they fit.

Called by `mmgdino.load`, and by training when it starts from or resumes a version.
Must not import backend, groundcrew or other detectors. Files are data, not code: nothing but tensors leaves a file.
Example: `load_strictly(model, read_state_dict(Path("epoch_12.pth")))`.
"""

from __future__ import annotations

import pickle  # nosec B403  # for its error class; torch reads with weights_only
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from contract.errors import CheckpointMismatch, CheckpointRefused

#: What mmengine's Runner and the published MM Grounding DINO files pickle beside their tensors: log histories (with
#: their methods, hence getattr), arrays and scalars of NumPy 1 (`numpy.core`) and 2 (`numpy._core`), dataset metadata.
TRAINING_LOG_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)

#: Buffers that hold no learned value and come and go between library versions: position_ids left BERT's state_dict
#: in transformers 4.31, num_batches_tracked is unused in evaluation.
EXCUSED_BUFFERS = frozenset({"position_ids", "num_batches_tracked"})

KEYS_SHOWN = 10


class _Inert:
    """Stands in for every object of `TRAINING_LOG_NAMES`, so that none of them is built or called."""

    def __new__(cls, *arguments: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        """Keep nothing."""

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file or in a file that `torch.save` wrote, on the CPU.

    Raises:
        CheckpointRefused: no such file, not a checkpoint, damaged, or it wants to run code.
    """
    if not path.is_file():
        raise CheckpointRefused(f"There is no checkpoint file {path}: check CHECKPOINT_FILE.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointRefused(f"{path} holds no state_dict of tensors: it is not a checkpoint of a detector.")
    return dict(state)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`, in the model's own precision; every weight must be there, and nothing else.

    mmengine's loader only logs what does not fit, and the result is random boxes.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape; the message lists them.
    """
    wanted = {key: value.shape for key, value in model.state_dict().items() if not _is_excused(key)}
    given = {key: value.shape for key, value in state.items() if not _is_excused(key)}
    reshaped = (
        f"{key} {tuple(given[key])} instead of {tuple(wanted[key])}"
        for key in wanted.keys() & given.keys()
        if wanted[key] != given[key]
    )
    problems = [
        *_describe("missing", wanted.keys() - given.keys()),
        *_describe("unexpected", given.keys() - wanted.keys()),
        *_describe("of another shape", reshaped),
    ]
    if problems:
        raise CheckpointMismatch(f"The checkpoint does not fit the config. {' '.join(problems)}")
    model.load_state_dict(state, strict=False)


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in TRAINING_LOG_NAMES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise (_refused(path, refused[1]) if refused else _damaged(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        # Whatever a damaged file makes the reader trip over.
        raise _damaged(path, error) from error


def _refused(path: Path, name: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"{path} carries {name}, which is not data, so it was not loaded. If you trust the file, open it on a "
        "machine of yours and save its weights alone: torch.save({'state_dict': content['state_dict']}, path)."
    )


def _damaged(path: Path, error: Exception) -> CheckpointRefused:
    # Only the first sentence: torch goes on to recommend weights_only=False.
    reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
    return CheckpointRefused(f"{path} is damaged or not a checkpoint: {reason}.")


def _is_excused(key: str) -> bool:
    return key.rpartition(".")[2] in EXCUSED_BUFFERS


def _describe(kind: str, keys: Iterable[str]) -> list[str]:
    """One sentence that counts the keys and names the first ones; none without keys."""
    ordered = sorted(keys)
    if not ordered:
        return []
    rest = f" and {len(ordered) - KEYS_SHOWN} more" if len(ordered) > KEYS_SHOWN else ""
    return [f"{len(ordered)} {kind}: {', '.join(ordered[:KEYS_SHOWN])}{rest}."]
