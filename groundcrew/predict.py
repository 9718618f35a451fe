"""`groundcrew predict`: boxes for images without any server; pictures to look at, COCO and Label Studio JSON.

Called by: groundcrew.cli. Must not import: Celery, redis, label_studio_sdk, torch (a cold start is the main cost here).
Images are read, drawn and written by a few threads, so that the model always finds a batch waiting.
Example: `predict_sources(read_settings(), ["photos/"], "red circle", Output.read(Path("out"), "coco", ""))`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from contract.errors import GroundcrewError, ImageError, OutOfDeviceMemory, PromptError
from contract.labels import LabelMap, LabelTarget, read_label_config
from contract.prompt_map import load_prompt_map
from contract.prompts import lint_prompts, read_interactive
from contract.registry import ModelVersion, Registry
from contract.settings import Settings
from contract.stamps import stamp
from contract.tiling import Tiling, choose_tiling
from groundcrew.coco import FoundImage
from groundcrew.exit_codes import PartlyDone
from groundcrew.predict_output import Output
from groundcrew.progress import bar, stderr_console
from groundcrew.sources import Source, find_sources, from_tasks, name_pictures
from worker.addresses import Fetcher
from worker.detectors.base import Detector
from worker.images import decode_image
from worker.labelstudio import LabelStudio
from worker.models import Look, Models, load_mmgdino
from worker.tiles import detect

Json = dict[str, Any]
Load = Callable[[ModelVersion], Detector]
Outcome = FoundImage | GroundcrewError
ThisImageFailed = (ImageError, OutOfDeviceMemory)  #: what says nothing about the other images


class ImagesFailed(PartlyDone):
    """Some images could not be used; the others are done."""

    code = "images_failed"


class NothingToDo(GroundcrewError):
    """There is no image that could be used."""

    code = "nothing_to_do"


@dataclass(frozen=True)
class Asked:
    """What to look for, with which version, and the label config where a project has one."""

    label_map: LabelMap
    version: ModelVersion
    label_config: str = ""

    @property
    def look(self) -> Look:
        label_map = self.label_map
        return Look(self.version.ref, label_map.prompts, label_map.nms_groups,
                    label_map.lowest_threshold(self.version.score_threshold))  # fmt: skip

    @property
    def tiling(self) -> Tiling:
        return choose_tiling(self.version.tiling, self.label_map)

    @property
    def stamp(self) -> str:
        """The model version as Label Studio would see it."""
        return stamp(self.version, self.label_map)


def predict_sources(
    settings: Settings, names: Sequence[str], prompt: str, output: Output, *, load: Load | None = None
) -> Json:
    """Find what `prompt` names in every image that `names` lead to; write what `output` asks for.

    Args:
        names: see groundcrew.sources.find_sources.
        prompt: phrases separated by full stops, commas or new lines; words of PROMPT_MAP_FILE are translated.
        load: builds the detector; the real one unless given.

    Returns:
        {"images", "boxes", "model_version", "out", "failed"}: what --json prints.

    Raises:
        ImagesFailed: at the end, when an image could not be used; the others are written. NothingToDo: none could.
        SourceError, PromptError, ModelError, SettingsError, CannotWrite: before or at the first image.
    """
    sources = find_sources(names, besides=output.out_dir)
    asked = Asked(read_prompt(prompt, load_prompt_map(settings)), Registry(settings).base)
    fetcher = Fetcher(_trusting(settings, sources), dict)  # no token goes along
    return _predict(settings, sources, asked, output, fetcher, load)


def _trusting(settings: Settings, sources: Sequence[Source]) -> Settings:
    """Addresses in tasks are strangers' words; those on the command line are of whoever sits at this machine."""
    typed = {urlsplit(source.address).netloc.rpartition("@")[2] for source in sources if source.address}
    hosts = ",".join(filter(None, [settings.image_private_hosts, *sorted(typed)]))
    return settings.model_copy(update={"image_private_hosts": hosts})


def predict_project(
    settings: Settings, project_id: int, output: Output, prompt: str | None, *, load: Load | None = None
) -> Json:
    """The same for all tasks of a Label Studio project, with its current model version.

    Args:
        prompt: what to look for instead of the labels of the project.

    Raises:
        LabelStudioError, LabelConfigError, NothingToDo: before the first image. Else as predict_sources().
    """
    words, version = load_prompt_map(settings), Registry(settings).current(project_id)
    with closing(LabelStudio(settings)) as label_studio:
        label_config = label_studio.label_config(project_id)
        own = Asked(read_label_config(label_config, prompt_map=words), version, label_config)
        asked = own if prompt is None else Asked(read_prompt(prompt, words), version)
        image_key = own.label_map.image_key
        sources = from_tasks(label_studio.tasks(project_id, image_key))
        if not sources:
            raise NothingToDo(f'project {project_id} has no task with an image in its field "{image_key}"')
        return _predict(settings, sources, asked, output, Fetcher(settings, label_studio.authorization), load)


def _predict(settings: Settings, sources: Sequence[Source], asked: Asked, output: Output, fetcher: Fetcher,
             load: Load | None) -> Json:  # fmt: skip
    console = stderr_console()
    for warning in lint_prompts(asked.label_map):
        _say(console, f"{warning.label or 'the prompt'} {warning.message}")
    models = Models(Registry(settings), load or load_mmgdino(settings), settings)
    output.prepare()
    job = _ImageJob(models, asked, output, fetcher, settings.image_limit_px)
    outcomes = _run(job, sources, settings.batch_size, console)
    found = [outcome for outcome in outcomes if isinstance(outcome, FoundImage)]
    failures = [
        (source.name, outcome.message)
        for source, outcome in zip(sources, outcomes, strict=True)
        if isinstance(outcome, GroundcrewError)
    ]
    _write(settings, asked, output, found, failures)
    return _conclude(asked, output, found, failures)


def _write(settings: Settings, asked: Asked, output: Output, found: Sequence[FoundImage],
           failures: Sequence[tuple[str, str]]) -> None:  # fmt: skip
    version = asked.version
    info = {"model": version.ref, "score_threshold": version.score_threshold, "nms_iou": version.nms_iou}
    output.write_coco(found, failures, prompts=asked.label_map.prompts, info=info)
    output.write_tasks(
        found, asked.label_map, stamp=asked.stamp, score_threshold=version.score_threshold,
        local_files_root=settings.local_files_root, label_config=asked.label_config,
    )  # fmt: skip


def _conclude(asked: Asked, output: Output, found: Sequence[FoundImage], failures: Sequence[tuple[str, str]]) -> Json:
    summary = {
        "images": len(found),
        "boxes": sum(len(image.boxes) for image in found),
        "model_version": asked.stamp,
        "out": str(output.out_dir),
        "failed": [{"image": name, "reason": reason} for name, reason in failures],
    }
    if failures and not found:
        raise NothingToDo("no image could be used, for the reasons above")
    if failures:
        total = len(found) + len(failures)
        raise ImagesFailed(f"{len(failures)} of {total} images could not be used, for the reasons above; "
                           f"the others are in {output.out_dir}/")  # fmt: skip
    return summary


def print_summary(found: Mapping[str, Any]) -> None:
    """What _conclude returned, in one line."""
    boxes, images = _count(found["boxes"], "box"), _count(found["images"], "image")
    click.echo(f"groundcrew: {boxes} in {images}; see {found['out']}/", err=True)


def read_prompt(text: str, prompt_map: Mapping[str, str]) -> LabelMap:
    """A label map with one label a phrase; the text is split and translated as one typed into Label Studio's editor.

    Raises PromptError when no phrase is left, or the text is too long.
    """
    anything = LabelTarget(from_name="label", to_name="image", label="box", prompts=(), names=())
    empty = LabelMap((anything,), "image", "image", prompt_control="prompt", words=tuple(prompt_map.items()))
    prompts = read_interactive(empty, {"result": [{"from_name": "prompt", "value": {"text": [text]}}]}).prompts
    if not prompts:
        raise PromptError('names nothing to look for; write for example "red circle . blue square"', field="--prompt")
    targets = tuple(LabelTarget("label", "image", label=phrase, prompts=(phrase,), names=()) for phrase in prompts)
    return LabelMap(targets, "image", "image")


@dataclass(frozen=True)
class _ImageJob:
    """What is done with each image."""

    models: Models
    asked: Asked
    output: Output
    fetcher: Fetcher
    image_limit_px: int

    def run(self, source: Source, picture: str) -> Outcome:
        """Read, detect, draw, write. What concerns this image alone is returned, everything else is raised."""
        try:
            pixels = decode_image(source.read(self.fetcher), limit_px=self.image_limit_px)  # (H, W, 3)
            look = self.asked.look
            find = partial(self.models.detect_all, look, urgent=False)
            boxes = detect(find, pixels, self.asked.tiling, groups=look.groups, nms_iou=self.asked.version.nms_iou)
        except ThisImageFailed as error:
            return error
        self.output.draw(picture, pixels, boxes, self.asked.label_map.prompts)
        return FoundImage(source, picture, width_px=pixels.shape[1], height_px=pixels.shape[0], boxes=boxes)


def _run(job: _ImageJob, sources: Sequence[Source], threads: int, console: Console) -> list[Outcome]:
    """The outcome of each image, in their order. A bar shows how far it is, where someone can see it."""
    outcomes: dict[int, Outcome] = {}
    with bar(console) as progress:
        task = progress.add_task("loading the model", total=len(sources))
        for position, outcome in _run_all(job, sources, threads):
            outcomes[position] = outcome
            progress.advance(task)
            if isinstance(outcome, GroundcrewError):
                _say(console, f"{sources[position].name}: {outcome.message}")
            else:
                progress.update(task, description="finding boxes")
    return [outcomes[position] for position in range(len(sources))]


def _run_all(job: _ImageJob, sources: Sequence[Source], threads: int) -> Iterator[tuple[int, Outcome]]:
    """(position, outcome) as they come. The first error that concerns all images ends it."""
    with ThreadPoolExecutor(threads) as pool:
        pairs = enumerate(zip(sources, name_pictures(sources, job.output.out_dir), strict=True))
        futures = {pool.submit(job.run, *pair): position for position, pair in pairs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{plural if number != 1 else ''}"


def _say(console: Console, sentence: str) -> None:
    console.print(f"groundcrew: {sentence}", markup=False, soft_wrap=True)
