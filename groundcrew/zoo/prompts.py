"""Names for the objects of a scene: what a person would type, and which of it is there.

Called by the training and the evaluation of the tiny model.
Must not import torch, mmdet or the rest of groundcrew beside scenes.py and shapes.py.
Example: `sample_prompt(np.random.default_rng(0), scene.pairs, SEEN_PAIRS, 20).names  # ["red circle", ...]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groundcrew.zoo.scenes import COLOURS, SPARE_COLOURS, Pair
from groundcrew.zoo.shapes import SHAPES, SPARE_SHAPES

ANY_SHAPE = ("object", "thing", "shape")
"""Words that stand for every shape: "red object"."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk"),
    "square": ("box",),
    "triangle": ("wedge",),
    "ring": ("hoop",),
    "diamond": ("rhombus",),
    "red": ("crimson",),
    "green": ("emerald",),
    "cyan": ("turquoise",),
    "pink": ("rose",),
}

UNKNOWN_WORDS = (*SPARE_SHAPES, "person", "car", "dog", "tree", "house", "cloud", "moon", "leaf")
"""Names that training asks for and never shows: the answer is that nothing is there."""


@dataclass(frozen=True)
class Phrase:
    """What a name asks for: a colour, a shape, or both; None stands for any."""

    colour: str | None
    shape: str | None

    def matches(self, pair: Pair) -> bool:
        return self.colour in (None, pair[0]) and self.shape in (None, pair[1])


@dataclass(frozen=True)
class Prompt:
    """Names to look for, and for each object of the scene the numbers of the names that mean it."""

    names: list[str]
    matches: list[list[int]]  # one list per object, empty where no name means it


def phrase_of(name: str) -> Phrase:
    """Read a plain name: "red circle", "circle" or "red object"."""
    words = name.split()
    shape = words[-1] if words[-1] not in ANY_SHAPE else None
    return Phrase(words[0] if len(words) > 1 else None, shape)


def sample_prompt(random: np.random.Generator, present: Sequence[Pair], known: Sequence[Pair], most: int) -> Prompt:
    """Ask for most of what is there and for up to `most` names that are not, half of them nearly right.

    Args:
        present: colour and shape of each object in the scene.
        known: pairs that may be named; those held out of training are neither shown nor named.
        most: largest number of absent names.
    """
    kinds = _sample_kinds(random)
    asked = {_generalise(random, pair, kinds) for pair in present if random.random() < 0.85}
    absent = _sample_absent(random, present, known, kinds, int(random.integers(1, most + 1)))
    phrases = [*asked, *absent]
    phrases = [phrases[number] for number in random.permutation(len(phrases))]
    matches = [[number for number, phrase in enumerate(phrases) if phrase.matches(pair)] for pair in present]
    return Prompt([_spell(random, phrase) for phrase in phrases], matches)


def _sample_kinds(random: np.random.Generator) -> tuple[float, float, float]:
    """Chances of a full name, a shape alone and a colour alone within one prompt; most prompts keep to one kind."""
    styles = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.3, 0.2))
    return styles[random.choice(4, p=(0.5, 0.28, 0.1, 0.12))]


def _generalise(random: np.random.Generator, pair: Pair, kinds: tuple[float, float, float]) -> Phrase:
    kind = random.choice(3, p=kinds)
    return (Phrase(*pair), Phrase(None, pair[1]), Phrase(pair[0], None))[kind]


def _sample_absent(
    random: np.random.Generator,
    present: Sequence[Pair],
    known: Sequence[Pair],
    kinds: tuple[float, float, float],
    count: int,
) -> list[Phrase]:
    """Up to `count` different phrases that mean nothing in the scene; half share a word with what is there."""
    alike = [pair for pair in known if any(pair[0] == colour or pair[1] == shape for colour, shape in present)]
    found: dict[Phrase, None] = {}
    for _ in range(2 * count):
        pool = alike if random.random() < 0.5 and alike else known
        pair = pool[random.integers(len(pool))]
        if random.random() < 0.05:
            pair = _make_unknown(random, pair)
        phrase = _generalise(random, pair, kinds)
        if not any(phrase.matches(other) for other in present):
            found[phrase] = None
        if len(found) == count:
            break
    return list(found)


def _make_unknown(random: np.random.Generator, pair: Pair) -> Pair:
    if random.random() < 0.25:
        return list(SPARE_COLOURS)[random.integers(len(SPARE_COLOURS))], pair[1]
    return pair[0], UNKNOWN_WORDS[random.integers(len(UNKNOWN_WORDS))]


def _spell(random: np.random.Generator, phrase: Phrase) -> str:
    """The words of a phrase; one in twelve is a synonym, one name in thirty is a plural."""
    last = phrase.shape or ANY_SHAPE[random.integers(len(ANY_SHAPE))]
    words = [_vary(random, word) for word in (phrase.colour, last) if word is not None]
    return " ".join(words) + ("s" if random.random() < 1 / 30 else "")


def _vary(random: np.random.Generator, word: str) -> str:
    others = SYNONYMS.get(word, ())
    return others[random.integers(len(others))] if others and random.random() < 1 / 12 else word


def known_words() -> list[str]:
    """Every word that training uses, in a fixed order."""
    synonyms = [word for group in SYNONYMS.values() for word in group]
    return list(dict.fromkeys([*COLOURS, *SHAPES, *ANY_SHAPE, *synonyms, *SPARE_COLOURS, *UNKNOWN_WORDS]))
