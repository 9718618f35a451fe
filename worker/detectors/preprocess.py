"""Makes an image what the model saw in training: the test pipeline of its own config.

Called by `mmgdino.py`. Must not import backend, groundcrew or other detectors.
mmdet's pipelines start from BGR, as mmcv reads files; all of ours is RGB, so the flip happens here and only here.
Example: `Preprocessor(config)(image)["inputs"]` is a (3, height, width) uint8 tensor, resized.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.config import Config, ConfigDict
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import ConfigError, ImageUnreadable
from worker.detectors.stack import DetDataSample, build_transform, get_test_pipeline_cfg

MAX_ASPECT_RATIO = 100

Packed = dict[str, Tensor | DetDataSample]  #: "inputs": (3, h, w) uint8 BGR; "data_samples": sizes and scale


class Preprocessor:
    """The test pipeline without reading files and annotations."""

    def __init__(self, config: Config) -> None:
        """Build the steps.

        Raises:
            ConfigError: the config has no test pipeline, or one that does not build.
        """
        try:
            steps = _without_files(_find_pipeline(config))
            self._steps = [build_transform(step) for step in steps]
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ConfigError(f"CONFIG_FILE {config.filename} has no usable test pipeline: {error}") from error

    def __call__(self, image: NDArray[np.uint8]) -> Packed:
        """Resize and pack one (H, W, 3) RGB image.

        Raises:
            ImageUnreadable: one side is more than a hundred times the other; resizing would leave nothing of it.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ImageUnreadable(f"An image of {width} x {height} pixels is too thin to look for anything in it.")
        results = {"img": np.ascontiguousarray(image[..., ::-1])}
        for step in self._steps:
            results = step(results)
        return results


def _find_pipeline(config: Config) -> Sequence[ConfigDict]:
    if "test_dataloader" in config:
        return get_test_pipeline_cfg(config)
    return config.test_pipeline


def _without_files(steps: Sequence[ConfigDict]) -> list[ConfigDict]:
    """Start from an array, as `mmdet.apis.inference_detector` does, and expect no ground truth."""
    loader = {**steps[0], "type": "LoadImageFromNDArray"}
    rest = [step for step in steps[1:] if not _class_name(step).startswith("Load")]
    return [ConfigDict(loader), *rest]


def _class_name(step: ConfigDict) -> str:
    return str(step["type"]).rpartition(".")[2]
