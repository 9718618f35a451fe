"""What people write: prompts typed into the editor, the prompt map file, and advice on a project's prompts.

Called by: backend (interactive requests, setup), worker (prompt map), groundcrew (doctor). Pure: no I/O, no clock.
Must not import: anything but contract.errors, contract.labels and the standard library.
Example: `read_interactive(label_map, {"result": [...]}).prompts -> ("traffic light", "car")`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from contract.errors import PromptError, SettingsError
from contract.labels import LabelMap, LabelTarget, normalize_prompt, split_prompts

Regions = list[tuple[object, Mapping[str, object]]]  #: (from_name, value) pairs
LIMIT_CHARS = 4000  #: of one typed prompt; 256 tokens are about 1,200 characters of English
LONGEST_LINTED_WORDS = 16  #: names are shorter, and the runs of words grow with the square
_HARD_BREAK = re.compile(r"[,;\n\r、，；。|]|\.(?=\s|$)")


@dataclass(frozen=True)
class InteractivePrompt:
    """What one interactive request asks for. ``LabelMap.narrow`` turns it into a label map."""

    prompts: tuple[str, ...]  #: as the model sees them; one that several labels ask for is repeated
    labels: tuple[str, ...]  #: same length: what boxes of each prompt are called; always a label of the config
    score_threshold: float | None  #: the number typed, 0..1, which overrides every label's own; None: none typed


def read_interactive(label_map: LabelMap, context: Mapping[str, object] | None) -> InteractivePrompt:
    """Read the prompt and threshold controls out of ``params.context`` of an interactive /predict.

    Phrases are separated by full stops, commas, semicolons, new lines, Chinese separators, "and", "or", 和. A phrase
    that is a label's value, alias or prompt asks for that label. A word of the prompt map is translated. Label Studio
    accepts no label outside its config, so boxes of any other phrase get, first come: the label that shares the
    longest run of whole words with it ("red circle" -> "circle"), the label selected in the editor, the first label.
    Without any text, the prompts are the project's own.

    Raises:
        PromptError: text too long, or a threshold outside 0..1 (1..100 is read as percent).
    """
    regions = _regions(context)
    phrases = _split(_typed_text(label_map, regions), label_map)
    threshold = _typed_threshold(label_map, regions)
    targets = [target for phrase in phrases for target in _targets_of(phrase, label_map, regions)] or label_map.targets
    pairs = dict.fromkeys((prompt, target.label) for target in targets for prompt in target.prompts)
    return InteractivePrompt(tuple(prompt for prompt, _ in pairs), tuple(label for _, label in pairs), threshold)


def _regions(context: Mapping[str, object] | None) -> Regions:
    """The regions that the editor has just finished."""
    result = (context or {}).get("result")
    return [
        (region.get("from_name"), value)
        for region in (result if isinstance(result, list) else ())
        if isinstance(region, dict) and isinstance(value := region.get("value"), dict)
    ]


def _values_of(control: str | None, regions: Regions) -> list[Mapping[str, object]]:
    return [value for name, value in regions if control is not None and name == control]


def _typed_text(label_map: LabelMap, regions: Regions) -> str:
    texts = [value.get("text") for value in _values_of(label_map.prompt_control, regions)]
    typed = "\n".join(line for text in texts for line in ([text] if isinstance(text, str) else _strings(text)))
    if len(typed) > LIMIT_CHARS:
        raise PromptError(f"has {len(typed)} characters; at most {LIMIT_CHARS} are read")
    return typed


def _typed_threshold(label_map: LabelMap, regions: Regions) -> float | None:
    numbers = [value.get("number") for value in _values_of(label_map.threshold_control, regions)]
    if not numbers or numbers[-1] is None:
        return None
    number = numbers[-1]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise PromptError(f"is {number!r}; it must be a number from 0 to 1", field=str(label_map.threshold_control))
    return number if number <= 1 else number / 100


def _split(text: str, label_map: LabelMap) -> list[str]:
    """Phrases of a typed text, normalized, without repetitions. A known name is never cut at its "and"."""
    known = {name for target in label_map.targets for name in _known_as(target)} | set(_words(label_map))
    phrases: list[str] = []
    for piece in map(normalize_prompt, _HARD_BREAK.split(text.replace("_", " "))):
        for part in [piece] if piece in known else re.split(r"\s+(?:and|or)\s+", piece):
            # 和 also occurs inside words, so it separates only what is known on both sides
            chinese = [normalize_prompt(word) for word in re.split("[和与及]", part)]
            phrases += chinese if part not in known and known.issuperset(chinese) else [part]
    return [phrase for phrase in dict.fromkeys(phrases) if phrase]


def _known_as(target: LabelTarget) -> set[str]:
    return {*map(normalize_prompt, target.names), *target.prompts}


def _words(label_map: LabelMap) -> dict[str, tuple[str, ...]]:
    return {normalize_prompt(name): split_prompts(prompt) for name, prompt in label_map.words}


def _targets_of(phrase: str, label_map: LabelMap, regions: Regions) -> list[LabelTarget]:
    """The labels that boxes of this phrase get: exact names ask for the label's prompts, others for the phrase."""
    exact = [target for target in label_map.targets if phrase in _known_as(target)]
    if exact:
        return [replace(target, prompts=(phrase,) if phrase in target.prompts else target.prompts) for target in exact]
    prompts = _words(label_map).get(phrase, (phrase,))
    best = max(label_map.targets, key=lambda target: _shared_words(prompts[0], target))
    if not _shared_words(prompts[0], best):
        best = _selected(label_map, regions) or label_map.targets[0]
    return [replace(best, prompts=prompts)]


def _shared_words(phrase: str, target: LabelTarget) -> int:
    """Length of the label's longest name that occurs in the phrase as whole words, or that the phrase occurs in."""
    names = [name for name in _known_as(target) if _within(name, phrase) or _within(phrase, name)]
    return max((min(len(name), len(phrase)) for name in names), default=0)


def _within(part: str, whole: str) -> bool:
    return bool(part) and f" {part} " in f" {whole} "


def _selected(label_map: LabelMap, regions: Regions) -> LabelTarget | None:
    chosen = {label for _, value in regions for label in _strings(value.get("rectanglelabels"))}
    return next((target for target in label_map.targets if target.label in chosen), None)


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


class PromptWarning(NamedTuple):
    """One piece of advice. ``code`` is stable, for programs."""

    code: str  #: duplicate, empty, too_long, contained, not_ascii, chunked or other_image
    label: str  #: the label concerned, or "" for the whole list
    message: str  #: one sentence that says what to do


def lint_prompts(
    label_map: LabelMap, *, limit_tokens: int = 256, count_tokens: Callable[[str], int] | None = None
) -> list[PromptWarning]:
    """Advice on a project's prompts: what will not be found, or be found under another name.

    Args:
        limit_tokens: text length of the model, its two special tokens included.
        count_tokens: tokens of one prompt as the model's tokenizer counts them; without it an estimate is used.
    """
    count = count_tokens or estimate_tokens
    return [
        *(warning for target in label_map.targets for warning in _lint_target(target, limit_tokens, count)),
        *_lint_duplicates(label_map),
        *_lint_contained(label_map),
        *_lint_list(label_map, limit_tokens, count),
    ]


def estimate_tokens(prompt: str) -> int:
    """WordPiece tokens of a prompt, guessed: one a mark or Chinese character, one per 6 letters of a word."""
    pieces = re.findall(r"[⺀-鿿]|[^\W⺀-鿿]+|[^\w\s]", prompt)
    return sum(-(-len(piece) // 6) for piece in pieces)


def _lint_target(target: LabelTarget, limit_tokens: int, count: Callable[[str], int]) -> Iterator[PromptWarning]:
    if not target.prompts:
        yield PromptWarning("empty", target.label, "has no prompt and is never found: give it a name with letters")
    for prompt in target.prompts:
        if (tokens := count(prompt)) > limit_tokens - 3:  # [CLS], the separator after the prompt, [SEP]
            yield PromptWarning(
                "too_long", target.label, f"has a prompt of about {tokens} tokens; the model reads {limit_tokens - 3}"
            )
        if not prompt.isascii():
            yield PromptWarning(
                "not_ascii", target.label, f'asks for "{prompt}", which English models do not read: '
                "add it to the prompt map file (PROMPT_MAP_FILE), or give the label an English alias"
            )  # fmt: skip


def _lint_duplicates(label_map: LabelMap) -> Iterator[PromptWarning]:
    owners: dict[tuple[str, str], LabelTarget] = {}
    for target in label_map.targets:
        for prompt in target.prompts:
            owner = owners.setdefault((target.from_name, prompt), target)
            if owner is not target:
                yield PromptWarning(
                    "duplicate", target.label, f'asks for "{prompt}" as "{owner.label}" does, which gets all its boxes'
                )


def _lint_contained(label_map: LabelMap) -> Iterator[PromptWarning]:
    longer: dict[str, str] = {}
    for prompt in label_map.prompts:
        for part in _parts(prompt):
            longer.setdefault(part, prompt)
    for short, targets in zip(label_map.prompts, label_map.targets_by_prompt, strict=True):
        if short in longer:
            yield PromptWarning(
                "contained", targets[0].label, f'asks for "{short}", which is part of "{longer[short]}": '
                "boxes of one may be found as the other, so choose words that differ"
            )  # fmt: skip


def _parts(prompt: str) -> Iterator[str]:
    """Every run of its words but the whole, of the first words: what a label could be named by."""
    words = prompt.split()[:LONGEST_LINTED_WORDS]
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            part = " ".join(words[start:end])
            if part != prompt:
                yield part


def _lint_list(label_map: LabelMap, limit_tokens: int, count: Callable[[str], int]) -> Iterator[PromptWarning]:
    tokens = 2 + sum(count(prompt) + 1 for prompt in label_map.prompts)
    if tokens > limit_tokens:
        chunks = -(-tokens // limit_tokens)
        yield PromptWarning(
            "chunked", "", f"all prompts take about {tokens} tokens: each image is read about {chunks} times"
        )
    for control in label_map.ignored_controls:
        yield PromptWarning("other_image", "", f'control "{control}" belongs to another image and gets no boxes')


def read_prompt_map(text: str) -> dict[str, str]:
    """Read a prompt map file: a JSON object, or lines ``label = prompt``; ``#`` begins a comment line.

    Raises:
        SettingsError: a line that is neither, an empty side, or a label given twice; the message names the line.
    """
    body = text.removeprefix("\ufeff")
    pairs = _json_pairs(body) if body.lstrip().startswith("{") else _line_pairs(body)
    words: dict[str, str] = {}
    for place, name, prompt in pairs:
        if not name.strip() or not split_prompts(prompt):
            raise SettingsError(f"prompt map, {place}: write label = prompt, with words on both sides")
        if name.strip() in words:
            raise SettingsError(f'prompt map, {place}: "{name.strip()}" is given twice')
        words[name.strip()] = prompt.strip()
    return words


def _line_pairs(body: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(body.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, _, prompt = line.partition("=")
            yield f"line {number}", name, prompt


def _json_pairs(body: str) -> Iterator[tuple[str, str, str]]:
    try:
        pairs = json.loads(body, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise SettingsError(f"prompt map, line {error.lineno}: {error.msg}") from error
    for name, prompt in pairs:
        if not isinstance(prompt, str):
            raise SettingsError(f'prompt map, "{name}": the prompt must be a text')
        yield f'"{name}"', name, prompt
