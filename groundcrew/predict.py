"""`groundcrew predict`: boxes for image files without any server; pictures to look at, and one COCO-style JSON.

Called by: groundcrew.cli. Must not import: Celery, redis, label_studio_sdk, torch (a cold start is the main cost here).
Images are read, drawn and written by a few threads, so that the model always finds a batch waiting.
Example: `predict_files(read_settings(), (Path("a.jpg"),), "red circle . blue square", Path("predictions"))`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from backend.models import ModelCards
from contract.errors import GroundcrewError, ImageError, ImageUnreadable, OutOfDeviceMemory, PromptError
from contract.labels import LabelMap, LabelTarget
from contract.prompts import lint_prompts, read_interactive
from contract.registry import ModelVersion, Registry
from contract.settings import Settings
from groundcrew.boxes import LabelledBox
from groundcrew.coco import FoundImage, to_coco
from groundcrew.pictures import draw_boxes
from worker.detectors.base import Boxes, Detector
from worker.images import Pixels, decode_image
from worker.models import Look, Models, load_mmgdino

JSON_NAME = "predictions.json"
LEAST_SIDE_PX = 480  #: smaller images are drawn enlarged, or their labels could not be read
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe")
JPEG_QUALITY = 92

Outcome = FoundImage | GroundcrewError
ThisImageFailed = (ImageError, OutOfDeviceMemory)  #: what says nothing about the other images


class ImagesFailed(GroundcrewError):
    """Some images could not be used; the others are done."""

    code = "images_failed"


class CannotWrite(GroundcrewError):
    """A file cannot be written."""

    code = "cannot_write"


def predict_files(
    settings: Settings,
    images: Sequence[Path],
    prompt: str,
    out_dir: Path,
    *,
    load: Callable[[ModelVersion], Detector] | None = None,
) -> None:
    """Find what `prompt` names in each image; write the pictures and predictions.json to `out_dir`.

    Args:
        prompt: phrases separated by full stops, commas or new lines; words of PROMPT_MAP_FILE are translated.
        load: builds the detector; the real one unless given.

    Raises:
        ImagesFailed: at the end, when an image could not be used; the others are written.
        PromptError, ModelError, SettingsError, CannotWrite: before or at the first image.
    """
    console = Console(stderr=True, highlight=False)
    label_map = read_prompt(prompt, ModelCards(settings).prompt_map)
    for warning in lint_prompts(label_map):
        _say(console, f"{warning.label or 'the prompt'} {warning.message}")
    registry = Registry(settings)
    version = registry.base
    look = Look(version.ref, label_map.prompts, label_map.nms_groups, version.score_threshold)
    models = Models(registry, load or load_mmgdino(settings), settings)
    _make_dir(out_dir)
    job = _FileJob(models, look, out_dir, settings.image_limit_px)
    outcomes = _run(job, images, name_pictures(images, out_dir), settings.batch_size, console)
    info = {"model": version.ref, "score_threshold": version.score_threshold, "nms_iou": version.nms_iou}
    _conclude(outcomes, look.prompts, info, out_dir / JSON_NAME, console)


def _conclude(
    outcomes: Sequence[tuple[Path, Outcome]],
    prompts: Sequence[str],
    info: Mapping[str, object],
    json_path: Path,
    console: Console,
) -> None:
    found = [outcome for _, outcome in outcomes if isinstance(outcome, FoundImage)]
    failures = [(path, outcome.message) for path, outcome in outcomes if isinstance(outcome, GroundcrewError)]
    _write_json(json_path, to_coco(found, failures, prompts=prompts, info=info))
    boxes = sum(len(image.boxes) for image in found)
    _say(console, f"{_count(boxes, 'box')} in {_count(len(found), 'image')}; see {json_path.parent}/")
    if failures:
        raise ImagesFailed(f"{len(failures)} of {len(outcomes)} images could not be used; the reasons are above")


def read_prompt(text: str, prompt_map: Mapping[str, str]) -> LabelMap:
    """A label map with one label a phrase; the text is split and translated as one typed into Label Studio's editor.

    Raises PromptError when no phrase is left, or the text is too long.
    """
    anything = LabelTarget(from_name="box", to_name="image", label="box", prompts=(), names=())
    empty = LabelMap((anything,), "image", "image", prompt_control="prompt", words=tuple(prompt_map.items()))
    prompts = read_interactive(empty, {"result": [{"from_name": "prompt", "value": {"text": [text]}}]}).prompts
    if not prompts:
        raise PromptError('names nothing to look for; write for example "red circle . blue square"', field="--prompt")
    targets = tuple(LabelTarget("box", "image", label=phrase, prompts=(phrase,), names=()) for phrase in prompts)
    return LabelMap(targets, "image", "image")


def name_pictures(images: Sequence[Path], out_dir: Path) -> list[str]:
    """A file name for each picture: the image's own, numbered where two would meet, and never one of the images."""
    sources = {image.resolve() for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        suffix = ".jpg" if image.suffix.lower() in JPEG_SUFFIXES else ".png"
        number, name = 1, f"{image.stem}{suffix}"
        # Some file systems take A.png and a.png for the same file.
        while name.lower() in taken or (out_dir / name).resolve() in sources:
            number += 1
            name = f"{image.stem}-{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


@dataclass(frozen=True)
class _FileJob:
    """What is done with each image."""

    models: Models
    look: Look
    out_dir: Path
    image_limit_px: int

    def run(self, source: Path, picture: str) -> Outcome:
        """Read, detect, draw, write. What concerns this image alone is returned, everything else is raised."""
        try:
            pixels = decode_image(_read(source), limit_px=self.image_limit_px)  # (H, W, 3)
            boxes = self.models.detect(self.look, pixels, urgent=False)
        except ThisImageFailed as error:
            return error
        self._draw(pixels, boxes, self.out_dir / picture)
        return FoundImage(source, picture, width_px=pixels.shape[1], height_px=pixels.shape[0], boxes=boxes)

    def _draw(self, pixels: Pixels, boxes: Boxes, path: Path) -> None:
        names = self.look.prompts
        labelled = [
            LabelledBox(names[label], tuple(corners), score)
            for corners, score, label in zip(
                boxes.xyxy_px.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True
            )
        ]
        drawn = draw_boxes(Image.fromarray(pixels), labelled, labels=names, least_side_px=LEAST_SIDE_PX)
        try:
            drawn.save(path, quality=JPEG_QUALITY)
        except OSError as error:
            raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error


def _run(
    job: _FileJob, images: Sequence[Path], pictures: Sequence[str], threads: int, console: Console
) -> list[tuple[Path, Outcome]]:
    """The outcome of each image, in their order. A bar shows how far it is, where someone can see it."""
    outcomes: dict[int, Outcome] = {}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("loading the model", total=len(images))
        for position, outcome in _run_all(job, images, pictures, threads):
            outcomes[position] = outcome
            progress.advance(task)
            if isinstance(outcome, GroundcrewError):
                _say(console, f"{images[position]}: {outcome.message}")
            else:
                progress.update(task, description="finding boxes")
    return [(image, outcomes[position]) for position, image in enumerate(images)]


def _run_all(
    job: _FileJob, images: Sequence[Path], pictures: Sequence[str], threads: int
) -> Iterator[tuple[int, Outcome]]:
    """(position, outcome) as they come. The first error that concerns all images ends it."""
    with ThreadPoolExecutor(threads) as pool:
        pairs = enumerate(zip(images, pictures, strict=True))
        futures = {pool.submit(job.run, *pair): position for position, pair in pairs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise ImageUnreadable(f"the file cannot be read: {error.strerror}") from error


def _make_dir(out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{out_dir} cannot be made: {error.strerror}") from error


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    try:
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from error


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{plural if number != 1 else ''}"


def _say(console: Console, sentence: str) -> None:
    console.print(f"groundcrew: {sentence}", markup=False, soft_wrap=True)
