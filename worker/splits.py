"""Which annotated task trains and which measures: by the hash of its id, so that a task never moves. Pure.

Called by: worker.export, worker.decision (ENOUGH_VAL). Must not import: anything but the standard library.
Pictures that were trained on would flatter the model if they measured it later; so splits of the base are kept.
Example: `assign_splits([SplitItem(7, "ab/ab12", frozenset({1}))], kept=base_dataset.splits) == {7: "train"}`
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = get_args(Split)
VAL_SHARE = 0.2  #: of the tasks; a common choice for hundreds of images
ENOUGH_VAL = 5  #: images with boxes measure a rise with some confidence; worker.decision judges fewer one by one
MOST_VAL_SHARE = 0.25  #: of the images with boxes, where a fifth of them is fewer than `ENOUGH_VAL`
_ANY_BOX = 0  #: as a category, it stands for all of them: each split needs an image with a box
_NOTHING_KEPT: Mapping[int, Split] = MappingProxyType({})


class SplitItem(NamedTuple):
    """What decides over one task."""

    task_id: int
    image: str  #: tasks with the same image go the same way
    category_ids: frozenset[int]  #: of its boxes; from 1


@dataclass
class _Group:
    """All tasks that show one image."""

    task_ids: list[int]
    categories: frozenset[int]
    rank: float  #: hash of the lowest task id, 0..1; below VAL_SHARE measures
    split: Split
    fixed: bool  #: one of its tasks was in this split before


def assign_splits(items: Sequence[SplitItem], *, kept: Mapping[int, Split] = _NOTHING_KEPT) -> dict[int, Split]:
    """Task id -> split.

    A task that was never assigned goes where the hash of its id says, which depends on nothing else. Only if a
    category (or all boxes together) would then be missing from one split, the tasks nearest to the border of the
    hash cross it; a category that one image shows alone is rather learned than measured. So do they where chance left
    fewer on val than a decision needs: of 20 images, a fifth by hash was three or fewer in 41 % of the projects.

    Args:
        kept: splits of an earlier export, above all of the one that the base was trained with. They win over all else.
    """
    groups = _group(items, kept)
    balance = _Balance(groups)
    balance.repair()
    balance.fill()
    return {task_id: kept.get(task_id, group.split) for group in groups for task_id in group.task_ids}


def _group(items: Iterable[SplitItem], kept: Mapping[int, Split]) -> list[_Group]:
    by_image: dict[str, list[SplitItem]] = {}
    for item in sorted(items):
        by_image.setdefault(item.image, []).append(item)
    return [_make_group(tasks, kept) for tasks in by_image.values()]


def _make_group(tasks: Sequence[SplitItem], kept: Mapping[int, Split]) -> _Group:
    task_ids = [task.task_id for task in tasks]
    categories = frozenset().union(*(task.category_ids for task in tasks))
    rank = _rank(task_ids[0])
    before = next((kept[task_id] for task_id in task_ids if task_id in kept), None)
    split: Split = before or ("val" if rank < VAL_SHARE else "train")
    return _Group(task_ids, categories | {_ANY_BOX} if categories else categories, rank, split, before is not None)


def _rank(task_id: int) -> float:
    return int.from_bytes(hashlib.sha256(str(task_id).encode()).digest()[:8]) / 2**64


@dataclass
class _Balance:
    """Moves as few groups as possible, so that every category is in both splits where possible."""

    groups: list[_Group]
    members: dict[int, list[_Group]] = field(init=False, default_factory=dict)  #: category -> its groups

    def __post_init__(self) -> None:
        for group in self.groups:
            for category in group.categories:
                self.members.setdefault(category, []).append(group)

    def repair(self) -> None:
        """The rarest categories first, as they have the least choice; all boxes together last."""
        for category in sorted(self.members, key=lambda c: (c == _ANY_BOX, len(self.members[c]), c)):
            if not self._count(category, "train"):
                self._move_one(category, "val", "train", at_any_price=True)
            if not self._count(category, "val") and len(self.members[category]) > 1:
                self._move_one(category, "train", "val", at_any_price=category == _ANY_BOX)

    def fill(self) -> None:
        """Enough images with boxes to measure with, as far as the share allows and no category leaves train."""
        with_boxes = self.members.get(_ANY_BOX, [])
        wanted = min(ENOUGH_VAL, int(len(with_boxes) * MOST_VAL_SHARE))
        for _ in range(wanted - sum(group.split == "val" for group in with_boxes)):
            self._move_one(_ANY_BOX, "train", "val", at_any_price=False)

    def _count(self, category: int, split: Split) -> int:
        return sum(group.split == split for group in self.members[category])

    def _move_one(self, category: int, source: Split, target: Split, *, at_any_price: bool) -> None:
        movable = [group for group in self.members[category] if group.split == source and not group.fixed]
        harmless = [group for group in movable if self._is_harmless(group, source)]
        candidates = harmless or (movable if at_any_price else [])
        if candidates:
            min(candidates, key=lambda group: abs(group.rank - VAL_SHARE)).split = target

    def _is_harmless(self, group: _Group, source: Split) -> bool:
        """Whether all its categories stay in the split that it leaves, as far as they can be in both."""
        return all(
            self._count(category, source) > 1 or (source == "val" and len(self.members[category]) == 1)
            for category in group.categories
        )
