"""Label config XML -> LabelMap: what to look for, and what to call it.

Called by: backend (setup, predict), worker, groundcrew (doctor). Pure: no I/O, no clock.
Must not import: anything but contract.errors, defusedxml and the standard library.
Example: `label_map = read_label_config(xml); detector.detect(image, label_map.prompts)`
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Literal
from xml.etree.ElementTree import Element, ParseError  # nosec B405  # types only: parsing is defusedxml's

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from contract.errors import LabelConfigError

LIMIT_BYTES = 1 << 20  #: of a label config; Label Studio's own largest template is under 10 kB
LIMIT_PROMPTS = 5_000  #: LVIS has 1,203 classes; 5,000 prompts are read in about a hundred passes an image
LIMIT_DEPTH = 100  #: of tags in each other
LIMIT_CONTROLS = 100  #: RectangleLabels in one label config
ScoreKind = Literal["confidence", "uncertainty"]
_NO_WORDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class LabelTarget:
    """One label of one RectangleLabels control."""

    from_name: str  #: name of the RectangleLabels control
    to_name: str  #: name of the Image tag
    label: str  #: what Label Studio accepts in a result: the alias where there is one, else the value
    prompts: tuple[str, ...]  #: what the detector is asked for; several are synonyms; empty = never found
    names: tuple[str, ...]  #: value and alias as written: what people may type
    score_threshold: float | None = None  #: this label's own lower limit, 0..1

    def limit(self, score_threshold: float) -> float:
        """The label's own lower limit, or else the given one."""
        return score_threshold if self.score_threshold is None else self.score_threshold


@dataclass(frozen=True)
class LabelMap:
    """Everything this project needs from its label config. Hashable, and made of plain values only."""

    targets: tuple[LabelTarget, ...]  #: in the order of the label config
    image_key: str  #: the task's field that holds the image: ``image`` for ``value="$image"``
    to_name: str  #: name of the Image tag
    prompt_control: str | None = None  #: TextArea on the image: smart="true", or "prompt" in its name
    threshold_control: str | None = None  #: Number on the image with "threshold" in its name
    words: tuple[tuple[str, str], ...] = ()  #: the prompt map, for words typed by hand
    tile_size_px: int | None = None  #: tile="1024" on a RectangleLabels; 0 turns tiles off; None: as the settings say
    tile_overlap: float | None = None  #: tile_overlap="0.25": share of a tile
    score: ScoreKind = "confidence"  #: model_score="uncertainty" on a RectangleLabels; see regions.prediction_score
    ignored_controls: tuple[str, ...] = ()  #: RectangleLabels on other images: one task is one image here

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Unique prompts, in the order of the label config."""
        return tuple(dict.fromkeys(prompt for target in self.targets for prompt in target.prompts))

    @cached_property
    def targets_by_prompt(self) -> tuple[tuple[LabelTarget, ...], ...]:
        """For each of ``prompts`` the labels a box gets: one a control, the first of that control that asks for it."""
        owners: dict[str, dict[str, LabelTarget]] = {prompt: {} for prompt in self.prompts}
        for target in self.targets:
            for prompt in target.prompts:
                owners[prompt].setdefault(target.from_name, target)
        return tuple(tuple(owners[prompt].values()) for prompt in self.prompts)

    @cached_property
    def nms_groups(self) -> tuple[int, ...]:
        """For each of ``prompts`` a group number: synonyms of one label share it, so that NMS drops their doubles."""
        return tuple(self.targets.index(targets[0]) for targets in self.targets_by_prompt)

    def lowest_threshold(self, score_threshold: float) -> float:
        """The score below which no box of any label is kept: what the detector may drop by itself."""
        return min(target.limit(score_threshold) for target in self.targets)

    def narrow(self, prompts: Sequence[str], labels: Sequence[str], score_threshold: float | None = None) -> LabelMap:
        """The map for prompts that someone typed: boxes of ``prompts[i]`` are called ``labels[i]``.

        Args:
            labels: as many as prompts; each a label of this map.
            score_threshold: given, it takes the place of every label's own.
        """
        keep = score_threshold is None
        targets = tuple(
            replace(target, prompts=(prompt,), score_threshold=target.score_threshold if keep else None)
            for prompt, label in zip(prompts, labels, strict=True)
            for target in self.targets
            if target.label == label
        )
        return replace(self, targets=targets)


def normalize_prompt(text: str) -> str:
    """A name as the detector reads it: lower case, underscores as spaces, no full stop that would end a phrase.

    Full-width letters become plain ones (NFKC), so that ``ＣＡＲ`` finds cars.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("_", " ")
    return " ".join(re.sub(r"[.。](?=\s|$)", " ", plain).split()).rstrip(". ")


def split_prompts(text: str) -> tuple[str, ...]:
    """``traffic_light, stop light`` -> ``("traffic light", "stop light")``: synonyms of one label."""
    return tuple(dict.fromkeys(prompt for phrase in re.split("[,，]", text) if (prompt := normalize_prompt(phrase))))


def read_label_config(xml: str, *, prompt_map: Mapping[str, str] = _NO_WORDS) -> LabelMap:
    """Read a label config (cached).

    A label's prompts are, first come: its ``prompt`` attribute, its ``predicted_values`` (as in mmdet's Label Studio
    example), ``prompt_map`` of its alias or value, its alias if that is ASCII, its value. The first three may hold
    several, separated by commas. ``model_score_threshold`` on a Label, or on its RectangleLabels, is its lower limit.

    Args:
        xml: the label config, at most ``LIMIT_BYTES``.
        prompt_map: label -> prompt, for labels in a language that the model does not read.

    Raises:
        LabelConfigError: broken or hostile XML, no RectangleLabels on an Image, no label, or a bad threshold.
    """
    return _read_label_config(xml, tuple(sorted(prompt_map.items())))


@lru_cache(maxsize=64)
def _read_label_config(xml: str, words: tuple[tuple[str, str], ...]) -> LabelMap:
    root = _parse(xml)
    images = {tag.attrib["name"]: tag for tag in root.iter() if _is(tag, "Image") and tag.get("name")}
    controls = [(tag, image) for tag in root.iter() if _is(tag, "RectangleLabels") and (image := _object(tag, images))]
    if not controls:
        raise LabelConfigError("has no RectangleLabels whose toName is an Image: boxes need one (Labels do not do)")
    if len(controls) > LIMIT_CONTROLS:
        raise LabelConfigError(f"has {len(controls)} RectangleLabels; at most {LIMIT_CONTROLS} are read")
    to_name = controls[0][1]
    targets = tuple(
        target
        for control, image in controls
        if image == to_name
        for target in _read_control(control, to_name, {normalize_prompt(name): prompt for name, prompt in words})
    )
    if not any(target.prompts for target in targets):
        raise LabelConfigError("has no Label with a name inside its RectangleLabels: add <Label value=.../>")
    if (count := sum(len(target.prompts) for target in targets)) > LIMIT_PROMPTS:
        raise LabelConfigError(f"asks for {count} things; at most {LIMIT_PROMPTS} are looked for")
    return LabelMap(
        targets=targets,
        image_key=_image_key(images[to_name]),
        to_name=to_name,
        prompt_control=_prompt_control(root, images, to_name),
        threshold_control=_named(root, images, to_name, "Number", "threshold"),
        words=words,
        tile_size_px=_read_tile(controls[0][0]),
        tile_overlap=_read_share(controls[0][0], "tile_overlap", 0.8),
        score=_read_score(controls[0][0]),
        ignored_controls=tuple(tag.attrib["name"] for tag, image in controls if image != to_name),
    )


def _parse(xml: str) -> Element:
    if len(xml.encode("utf-8", "surrogatepass")) > LIMIT_BYTES:
        raise LabelConfigError(f"is longer than {LIMIT_BYTES} bytes")
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except ParseError as error:
        raise LabelConfigError(f"is not well-formed XML: {error}") from error
    except DefusedXmlException as error:
        raise LabelConfigError("contains a DTD or an entity declaration, which is refused") from error
    except ValueError as error:  # lone surrogates and the like
        raise LabelConfigError(f"is not valid text: {error}") from error
    _check_depth(root)
    return root


def _check_depth(root: Element) -> None:
    level = [root]
    for _ in range(LIMIT_DEPTH):
        level = [child for tag in level for child in tag]
    if level:
        raise LabelConfigError(f"has tags more than {LIMIT_DEPTH} levels deep")


def _is(tag: Element, name: str) -> bool:
    return tag.tag.lower() == name.lower()


def _object(control: Element, images: Mapping[str, Element]) -> str | None:
    """Name of the Image that a named control writes on; toName may list several tags."""
    if not control.get("name"):
        return None
    return next((name for name in control.get("toName", "").split(",") if name in images), None)


def _image_key(image: Element) -> str:
    value = image.get("value", "")
    if not re.fullmatch(r"\$[^\s$]+", value):
        raise LabelConfigError(
            f'has an Image "{image.get("name")}" that does not take one picture from the task: write value="$image"'
        )
    return value[1:]


def _read_control(control: Element, to_name: str, words: Mapping[str, str]) -> Iterable[LabelTarget]:
    """Targets of one RectangleLabels, without repeated labels (Label Studio keeps one of them, too)."""
    inherited = _read_threshold(control)
    targets: dict[str, LabelTarget] = {}
    for tag in control.iter("Label"):
        names = tuple(name for name in (tag.get("alias"), tag.get("value")) if name)
        if not names:
            continue
        own = _read_threshold(tag)
        threshold = inherited if own is None else own
        target = LabelTarget(control.attrib["name"], to_name, names[0], _prompts_of(tag, words), names, threshold)
        targets.setdefault(target.label, target)
    return targets.values()


def _prompts_of(tag: Element, words: Mapping[str, str]) -> tuple[str, ...]:
    alias, value = tag.get("alias", ""), tag.get("value", "")
    explicit = tag.get("prompt") or tag.get("predicted_values")
    mapped = words.get(normalize_prompt(alias)) or words.get(normalize_prompt(value))
    plain = alias if alias and alias.isascii() else value or alias
    given = explicit or mapped
    return split_prompts(given) if given else tuple(filter(None, [normalize_prompt(plain)]))


def _read_threshold(tag: Element) -> float | None:
    return _read_share(tag, "model_score_threshold", 1)


def _read_share(tag: Element, attribute: str, most: float) -> float | None:
    text = tag.get(attribute)
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= most:
        name = tag.get("value") or tag.get("name")
        raise LabelConfigError(f'has {attribute}="{text}" on "{name}": it must be a number from 0 to {most:g}')
    return share


def _read_score(control: Element) -> ScoreKind:
    kind = control.get("model_score", "confidence")
    kinds: dict[str, ScoreKind] = {"confidence": "confidence", "uncertainty": "uncertainty"}
    if kind not in kinds:
        raise LabelConfigError(f'has model_score="{kind}" on "{control.get("name")}": write {" or ".join(kinds)}')
    return kinds[kind]


def _read_tile(control: Element) -> int | None:
    text = control.get("tile")
    if text is None:
        return None
    if not re.fullmatch(r"0|[1-9][0-9]{1,4}", text):
        name = control.get("name")
        raise LabelConfigError(f'has tile="{text}" on "{name}": write the side of a tile in pixels, or 0 for none')
    return int(text)


def _prompt_control(root: Element, images: Mapping[str, Element], to_name: str) -> str | None:
    """The TextArea to read typed prompts from; the editor sends only controls with smart="true"."""
    for tag in root.iter():
        if _is(tag, "TextArea") and tag.get("smart") == "true" and _object(tag, images) == to_name:
            return tag.attrib["name"]
    return _named(root, images, to_name, "TextArea", "prompt")


def _named(root: Element, images: Mapping[str, Element], to_name: str, kind: str, word: str) -> str | None:
    for tag in root.iter():
        if _is(tag, kind) and _object(tag, images) == to_name and word in tag.attrib["name"].lower():
            return tag.attrib["name"]
    return None
