"""The text of one training step: which prompts are asked for, and which of them mean which box.

Called by stream.py; worker/replay.py reads ready-made captions from a file.
Must not import torch or mmdet. "red circle. blue square. " is what the model reads, as in prediction.
A model that always reads the same list forgets the names beside it, and one that reads a single name only calls
everything by it: so short lists, long ones and the project's whole list take turns.
Example: `sample_caption(np.random.default_rng(0), book, [1, 1, 2]).names  # ["red circle", "star", ...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WHOLE_LIST_CHANCE = 0.4  #: what prediction will ask for, always
ONLY_PRESENT_CHANCE = 0.15
LEAVE_OUT_CHANCE = 0.15  #: of a present name in the other captions: then its box is no answer
SPACER = ". "


@dataclass(frozen=True)
class Caption:
    """Names to look for, and for each box the numbers of the names that mean it."""

    names: Sequence[str]
    matches: Sequence[Sequence[int]]  # one list a box, empty where no name means it

    @property
    def text(self) -> str:
        """What the tokenizer reads."""
        return "".join(name + SPACER for name in self.names)

    @property
    def spans(self) -> list[list[int]]:
        """First and one past the last character of each name in `text`."""
        starts = np.cumsum([0, *(len(name) + len(SPACER) for name in self.names)])
        return [[int(start), int(start) + len(name)] for start, name in zip(starts, self.names, strict=False)]


@dataclass(frozen=True)
class PromptBook:
    """The distinct prompts of a project, what they mean, and how many the model reads at once."""

    names: Sequence[str]
    tokens: Sequence[int]  # of each name, its separator included
    meanings: Mapping[int, Sequence[int]]  # category id -> numbers of its names
    limit_tokens: int  #: of one caption, start and end token not counted
    limit_names: int  #: the model's denoising part has an embedding for so many

    def take(self, order: Sequence[int]) -> list[int]:
        """The first numbers of `order` that fit into one caption."""
        within = np.cumsum([self.tokens[number] for number in order]) <= self.limit_tokens
        return [number for number, fits in zip(order, within, strict=True) if fits][: self.limit_names]


def make_book(
    prompts: Mapping[int, Sequence[str]],
    clean: Callable[[str], str],
    count_tokens: Callable[[str], int],
    limit_tokens: int,
    limit_names: int,
) -> PromptBook:
    """Clean and number the prompts; two labels may share one.

    Raises:
        PromptError: what `clean` raises.
    """
    cleaned = {category: [clean(prompt) for prompt in group] for category, group in prompts.items()}
    names = list(dict.fromkeys(name for group in cleaned.values() for name in group))
    meanings = {category: [names.index(name) for name in group] for category, group in cleaned.items()}
    return PromptBook(names, [count_tokens(name) for name in names], meanings, limit_tokens, limit_names)


def sample_caption(random: np.random.Generator, book: PromptBook, categories: Sequence[int]) -> Caption:
    """A caption for an image with boxes of these categories, everything in it that the project labels."""
    present = list(dict.fromkeys(number for category in categories for number in book.meanings[category]))
    absent = [int(number) for number in random.permutation(len(book.names)) if number not in set(present)]
    style = random.random()
    if style < WHOLE_LIST_CHANCE:
        wanted = present + absent
    elif style < WHOLE_LIST_CHANCE + ONLY_PRESENT_CHANCE:
        wanted = present
    else:
        few = int(np.exp(random.uniform(0, np.log(len(absent) + 1)))) if absent else 0
        wanted = [number for number in present if random.random() >= LEAVE_OUT_CHANCE] + absent[:few]
    asked = book.take(wanted or absent[:1] or present[:1])
    asked = [asked[number] for number in random.permutation(len(asked))]
    return Caption([book.names[number] for number in asked], match(asked, book, categories))


def match(asked: Sequence[int], book: PromptBook, categories: Sequence[int]) -> list[list[int]]:
    """For each box the places in `asked` of the names that mean its category."""
    place = {number: position for position, number in enumerate(asked)}
    return [[place[number] for number in book.meanings[category] if number in place] for category in categories]


def add_absent(random: np.random.Generator, caption: Caption, book: PromptBook, tokens: int) -> Caption:
    """Append some of the book's names to a caption of an image that shows none of them, where they still fit.

    Args:
        random: decides which and how many.
        caption: takes `tokens` tokens.
        book: names it has in common with the caption are left alone.
        tokens: of `caption`.
    """
    count = int(np.exp(random.uniform(0, np.log(len(book.names) + 1))))
    chosen = [int(number) for number in random.permutation(len(book.names))[:count]]
    added = [book.names[number] for number in chosen if book.names[number] not in caption.names]
    spent = tokens + sum(book.tokens[book.names.index(name)] for name in added)
    if spent > book.limit_tokens or len(caption.names) + len(added) > book.limit_names:
        return caption
    names = [*caption.names, *added]
    order = random.permutation(len(names))
    place = {int(old): new for new, old in enumerate(order)}
    matches = [[place[number] for number in group] for group in caption.matches]
    return Caption([names[number] for number in order], matches)
