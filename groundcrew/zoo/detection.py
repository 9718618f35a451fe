"""Boxes from the tiny model, straight through mmdet, with class-wise non-maximum suppression.

Called by evaluate_tiny.py and tests; predictions in production go through worker/detectors.
Must not import backend.
Example: `detect(load_tiny(), scene.image, ["red circle", "star"]).scores  # (N,) best first`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from worker.detectors.stack import GroundingDINO

SHORT_SIDE_PX, LONG_SIDE_PX = 256, 512  # as in test_pipeline of the model's config
LARGEST_STRIDE_PX = 32
NMS_IOU = 0.7
MOST_BOXES = 300


@dataclass(frozen=True)
class Detections:
    """Boxes of one picture, best first."""

    boxes_xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels of the picture as given
    scores: NDArray[np.float32]  # (N,) 0 to 1
    labels: NDArray[np.int64]  # (N,) number of the name

    def above(self, threshold: float) -> "Detections":
        keep = self.scores >= threshold
        return Detections(self.boxes_xyxy_px[keep], self.scores[keep], self.labels[keep])


def detect(model: "GroundingDINO", image: NDArray[np.uint8], names: Sequence[str]) -> Detections:
    """Look for all names at once in one picture, (H, W, 3) red, green, blue, of any size."""
    import torch

    from worker.detectors.stack import DetDataSample

    height_px, width_px = image.shape[:2]
    scale = min(SHORT_SIDE_PX / min(height_px, width_px), LONG_SIDE_PX / max(height_px, width_px))
    size_px = (int(width_px * scale + 0.5), int(height_px * scale + 0.5))
    resized = np.array(Image.fromarray(image).resize(size_px, Image.Resampling.BILINEAR), np.float32)
    pixels = normalise(model, torch.from_numpy(resized)[None])
    shape = tuple(pixels.shape[2:])
    sample = DetDataSample(metainfo={"img_shape": shape, "batch_input_shape": shape, "ori_shape": image.shape[:2]})
    sample.set_metainfo({"scale_factor": (size_px[0] / width_px, size_px[1] / height_px)})
    sample.text, sample.custom_entities = tuple(names), True
    # mmdet fails if asked for more than there are (query, name) scores.
    model.bbox_head.test_cfg["max_per_img"] = min(MOST_BOXES, model.num_queries * len(names))
    with torch.inference_mode():
        found = model.predict(pixels, [sample])[0].pred_instances
    boxes_xyxy_px = found.bboxes.numpy().clip(0, np.array([width_px, height_px, width_px, height_px], np.float32))
    return suppress(Detections(boxes_xyxy_px, found.scores.numpy(), found.labels.numpy()), NMS_IOU)


def normalise(model: "GroundingDINO", images: "Tensor") -> "Tensor":
    """Pictures (B, H, W, 3), 0 to 255, as the model wants them: (B, 3, H', W'), H' and W' multiples of 32.

    mmdet places its queries by cells of 16 and 32 pixels and measures boxes in parts of the whole picture; only where
    the cells fill the picture exactly do the two agree. So the right and the lower edge are filled up with the mean.
    """
    from torch.nn import functional

    height, width = images.shape[1:3]
    pixels = (images.permute(0, 3, 1, 2) - model.data_preprocessor.mean) / model.data_preprocessor.std
    return functional.pad(pixels, (0, -width % LARGEST_STRIDE_PX, 0, -height % LARGEST_STRIDE_PX))


def suppress(found: Detections, most_iou: float) -> Detections:
    """Drop boxes that overlap a better one of the same name by more than `most_iou`."""
    order = np.argsort(-found.scores, kind="stable")
    boxes, labels = found.boxes_xyxy_px[order], found.labels[order]
    clash = (overlaps(boxes, boxes) > most_iou) & (labels[:, None] == labels)
    kept = np.ones(len(boxes), bool)
    for number in range(len(boxes)):
        if kept[number]:
            kept[number + 1 :] &= ~clash[number, number + 1 :]
    return Detections(boxes[kept], found.scores[order][kept], labels[kept])


def overlaps(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of (N, 4) and (M, 4) boxes xyxy: (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)
