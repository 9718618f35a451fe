"""One detector in a process of its own, for `benchmarks/detector.py`: it runs when it is told to, and says how long.

Called by benchmarks/detector.py as `python -m benchmarks.detector_contenders KIND JOB.json`. Must not import backend.
A process each, because ours replaces an op of mmcv's by a faster one: mmdet and transformers run as their users run
them, with the code and the memory allocator of their own process.
Example: see `Contender` in benchmarks/detector.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

KINDS = ("mmdet", "ours-fp32", "ours-best", "transformers-fp32", "transformers-bf16")


@dataclass(frozen=True)
class Job:
    """What all contenders work on; paths of files that the parent wrote."""

    config: str  #: prepared for inference
    weights: str  #: state_dict, .pth
    lang_model: str
    image: str  #: (H, W, 3) RGB uint8, .npy
    names: list[str]
    device: str
    threads: int
    largest_edge_px: int


@dataclass(frozen=True)
class Found:
    """Boxes of one image, the best first."""

    xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels
    scores: NDArray[np.float32]  # (N,)
    labels: NDArray[np.int64]  # (N,)


Run = Callable[[Sequence[str]], Found]


def load_mmdet(job: Job, image: NDArray[np.uint8]) -> Run:
    """`mmdet.apis.DetInferencer`, with mmcv's own deformable attention."""
    from worker.detectors import deform_attn

    if deform_attn.install():  # mmcv-lite cannot be imported without it; mmcv's own function is put back
        from mmcv.ops import multi_scale_deform_attn as attention

        attention.multi_scale_deformable_attn_pytorch = attention.multi_scale_deformable_attn_grid_sample
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(model=job.config, weights=job.weights, device=job.device, show_progress=False)
    bgr = np.ascontiguousarray(image[..., ::-1])

    def run(names: Sequence[str]) -> Found:
        text = ". ".join(names)
        (found,) = inferencer(bgr, texts=text, custom_entities=True, return_datasamples=True)["predictions"]
        instances = found.pred_instances.cpu()
        return Found(instances.bboxes.numpy(), instances.scores.numpy(), instances.labels.numpy())

    return run


def load_ours(job: Job, image: NDArray[np.uint8], precision: str) -> Run:
    """`worker.detectors.mmgdino`, as a worker runs it."""
    from worker.detectors.base import ModelSource
    from worker.detectors.mmgdino import load

    source = ModelSource("bench", "1", job.config, Path(job.weights), Path(job.lang_model))
    detector = load(source, job.device, threads=job.threads, precision=precision)

    def run(names: Sequence[str]) -> Found:
        (found,) = detector.detect([image], tuple(names), score_threshold=0.0, nms_iou=None)
        return Found(found.xyxy_px, found.scores, found.labels)

    return run


def load_transformers(job: Job, image: NDArray[np.uint8], dtype: torch.dtype) -> Run:
    """`MMGroundingDinoForObjectDetection` of transformers: Swin-T, random weights of its own, 900 queries."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
    )

    size = {"shortest_edge": 800, "longest_edge": job.largest_edge_px}
    tokenizer = BertTokenizerFast(vocab_file=str(Path(job.lang_model) / "vocab.txt"))
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer)
    config = MMGroundingDinoConfig(text_config=BertConfig.from_pretrained(job.lang_model).to_dict())
    model = MMGroundingDinoForObjectDetection(config).eval().to(job.device)

    @torch.inference_mode()
    def run(names: Sequence[str]) -> Found:
        text = ". ".join(names) + "."
        inputs = processor(images=image, text=text, return_tensors="pt").to(job.device)
        # By autocast: a model turned to bfloat16 as a whole fails on its own float32 encodings (transformers 4.57).
        with torch.autocast(job.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = model(**inputs)
        (found,) = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=0.3, target_sizes=[image.shape[:2]]
        )
        boxes, scores = found["boxes"].float().cpu().numpy(), found["scores"].float().cpu().numpy()
        return Found(boxes, scores, np.zeros(len(scores), np.int64))

    return run


def load(kind: str, job: Job, image: NDArray[np.uint8]) -> Run:
    """The contender of this name."""
    name, _, precision = kind.partition("-")
    if name == "mmdet":
        return load_mmdet(job, image)
    if name == "ours":
        return load_ours(job, image, "auto" if precision == "best" else precision)
    return load_transformers(job, image, torch.bfloat16 if precision == "bf16" else torch.float32)


def main(kind: str, job_path: str) -> None:
    """Answer each line on standard input, a JSON list of names or the path for the last result, by one of JSON."""
    job = Job(**json.loads(Path(job_path).read_text()))
    torch.set_num_threads(job.threads)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is not an answer
    run = load(kind, job, np.load(job.image))
    found = None
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, str):
            np.savez(order, **vars(found))
            print(json.dumps("written"), file=answers, flush=True)
            continue
        started_s = time.perf_counter()
        found = run(order)
        print(json.dumps(time.perf_counter() - started_s), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
