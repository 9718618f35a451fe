"""The split of tasks into those that train and those that measure: a task never moves.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_splits.py
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.splits import SplitItem, assign_splits


def item(task_id: int, *categories: int, image: str = "") -> SplitItem:
    return SplitItem(task_id, image or f"image of {task_id}", frozenset(categories))


def splits_by_category(items: list[SplitItem], splits: dict) -> dict[int, set[str]]:
    found = defaultdict(set)
    for task in items:
        for category in task.category_ids:
            found[category].add(splits[task.task_id])
    return found


#: Tasks with sets of categories; empty ones hold no box.
tasks = st.lists(st.frozensets(st.integers(1, 6), max_size=3), min_size=1, max_size=60).map(
    lambda sets: [item(task_id, *categories) for task_id, categories in enumerate(sets, start=100)]
)
#: The same, but each image may be that of several tasks.
tasks_that_share_images = st.tuples(tasks, st.integers(1, 20)).map(
    lambda drawn: [task._replace(image=f"image {task.task_id % drawn[1]}") for task in drawn[0]]
)


def test_about_a_fifth_measures() -> None:
    splits = assign_splits([item(task_id, 1) for task_id in range(5000)])

    assert 900 < sum(split == "val" for split in splits.values()) < 1100


@given(tasks | tasks_that_share_images, st.data())
def test_a_task_never_moves_when_its_split_is_kept(items, data) -> None:
    # given an export of some of the tasks, in any order
    first = data.draw(st.lists(st.sampled_from(items), unique=True))
    before = assign_splits(first)

    # when later all of them are annotated, and perhaps otherwise
    changed = [task._replace(category_ids=data.draw(st.frozensets(st.integers(1, 6), max_size=3))) for task in items]
    after = assign_splits(changed, kept=before)

    # then
    assert {task_id: after[task_id] for task_id in before} == before
    assert set(after) == {task.task_id for task in items}


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=200, max_size=300))
def test_without_anything_kept_other_tasks_move_no_task_of_a_large_project(kinds) -> None:
    # given enough tasks of one class that nothing needs repair
    some = [item(task_id, 1) for task_id in range(100)]
    more = [item(task_id, kind) for task_id, kind in enumerate(kinds, start=100)]

    # when
    before, after = assign_splits(some), assign_splits([*more, *some])

    # then
    assert {task_id: after[task_id] for task_id in before} == before


@given(st.lists(st.integers(1, 6), min_size=2, max_size=40))
def test_every_class_is_in_both_where_its_images_are_its_own(kinds) -> None:
    # given images that show one class each
    items = [item(task_id, kind) for task_id, kind in enumerate(kinds, start=100)]

    # when
    found = splits_by_category(items, assign_splits(items))

    # then two images are enough; a class with one image is learned, if another can measure
    for kind in set(kinds):
        if kinds.count(kind) > 1:
            assert found[kind] == {"train", "val"}
    assert set().union(*found.values()) == {"train", "val"}


@given(st.integers(1, 10_000), st.integers(1, 60))
def test_enough_images_measure_where_chance_left_too_few(first: int, images: int) -> None:
    # given a project of so many images with boxes, half of which show a second label, and as many without boxes
    ids = range(first, first + images)
    boxed = [item(number, *range(1 + number % 2, 3)) for number in ids]
    splits = assign_splits([*boxed, *(item(number + 100_000) for number in ids)])

    # then at least a quarter of them measure, or five
    on_val = [number for number in ids if splits[number] == "val"]
    assert len(on_val) >= min(5, images // 4)
    # and where the hash alone gives enough, it alone decides
    assert set(on_val) >= {number for number in ids if images > 10 and _hash_says_val(number)}


def _hash_says_val(number: int) -> bool:
    return assign_splits([item(number)])[number] == "val"


def test_no_label_leaves_train_so_that_more_images_measure() -> None:
    # given twenty images, of which sixteen show a label that none of the others shows
    items = [item(number, 1) for number in range(4)] + [item(number, number) for number in range(4, 20)]
    splits = assign_splits(items, kept={number: "train" for number in range(4)})
    # then those sixteen are learned, but for one without which nothing could be measured
    assert sum(split == "val" for split in splits.values()) == 1


@given(tasks)
def test_both_splits_hold_boxes_if_two_images_do(items) -> None:
    with_boxes = [task for task in items if task.category_ids]

    splits = assign_splits(items)

    found = {splits[task.task_id] for task in with_boxes}
    assert len(found) == min(2, len(with_boxes))
    assert "train" in found or not with_boxes


@given(tasks | tasks_that_share_images)
def test_the_order_of_the_tasks_does_not_matter(items) -> None:
    assert assign_splits(items) == assign_splits(items[::-1])


def test_tasks_with_the_same_image_go_the_same_way() -> None:
    # given every image in three tasks, far apart
    items = [item(task_id, 1, image=f"image {task_id % 50}") for task_id in range(150)]

    # when
    splits = assign_splits(items)

    # then
    ways = defaultdict(set)
    for task in items:
        ways[task.image].add(splits[task.task_id])
    assert {len(way) for way in ways.values()} == {1}


def test_a_new_task_follows_the_kept_one_with_the_same_image() -> None:
    # given a new task of lower id for each image
    items = [item(task_id, 1, image=f"image {task_id % 50}") for task_id in range(100)]
    kept = {task_id: "train" for task_id in range(50, 100)}

    # when
    splits = assign_splits(items, kept=kept)

    # then
    assert set(splits.values()) == {"train"}


def test_tasks_that_got_the_same_image_only_later_stay_where_they_were() -> None:
    kept = {1: "val", 2: "train"}

    assert assign_splits([item(1, 1, image="same"), item(2, 1, image="same")], kept=kept) == kept
