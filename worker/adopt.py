"""Makes a model version of files that came from elsewhere: a config, a checkpoint and a BERT.

Called by: groundcrew.models_command. Must not import: backend, groundcrew.
The operator names the files, so the config may run, as CONFIG_FILE does; what is written holds data only. Weights that
do not fit are refused here, before any worker meets them.
Example: `adopt(ModelSource("swin-t", "1", "grounding_dino_swin-t_...", Path("x.pth"), Path("bert")), Path("out"))`
"""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

from contract.errors import CheckpointRefused
from contract.publish import hash_file
from worker.detectors.base import ModelSource

_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")  #: OpenMMLab ends a file's name with those of its SHA-256
_MADE = ("config.py", "model.safetensors", "bert")


def check_sha256(checkpoint: Path, expected: str = "") -> None:
    """Compare with the digits that were asked for, and with those in the file's name where OpenMMLab put some.

    Args:
        expected: the first digits of the SHA-256, or all 64; any case.

    Raises:
        CheckpointRefused: it differs, or the file cannot be read.
    """
    named = _DIGITS_IN_NAME.search(checkpoint.name)
    wanted = [digits.lower() for digits in (expected, named[1] if named else "") if digits]
    try:
        found = hash_file(checkpoint)
    except OSError as error:
        raise CheckpointRefused(f"{checkpoint} cannot be read: {error.strerror}") from error
    for digits in wanted:
        if not found.startswith(digits):
            raise CheckpointRefused(
                f"The SHA-256 of {checkpoint} is {found}, not {digits}: the file is damaged or another one. "
                "Download it again."
            )


def adopt(source: ModelSource, target: Path) -> None:
    """Write config.py, model.safetensors and bert/ under `target`, which must not be there.

    Raises:
        ConfigError, LangModelMissing, CheckpointRefused, CheckpointMismatch: what their names say, with the remedy.
        OSError: `target` cannot be written.
    """
    from worker.detectors.checkpoints import load_strictly, read_state_dict
    from worker.detectors.configs import find_config, prepare_for_inference, read_config
    from worker.detectors.mmgdino import build_model
    from worker.training.output import write_model

    config = prepare_for_inference(read_config(find_config(source.config)), source.lang_model)
    assert source.checkpoint is not None
    weights = read_state_dict(source.checkpoint)
    load_strictly(build_model(copy.deepcopy(config)), weights)  # building changes the config that is written below
    halves = [str(value.dtype) == "torch.float16" for value in weights.values() if value.is_floating_point()]
    write_model(target, config, weights, half=all(halves))


def copy_others(directory: Path, target: Path) -> None:
    """What lies beside the model in a version's directory: replay data, recipe, pictures."""
    for path in directory.iterdir():
        if path.is_file() and path.name not in _MADE:
            shutil.copyfile(path, target / path.name)
