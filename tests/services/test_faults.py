"""Rows of the table of faults that fit into `make test`, with fewer tasks: nothing lost, nothing stored twice.

The whole table, 1,000 tasks a row: `groundcrew bench faults`. Real Redis and processes; Label Studio is faked, so that
it can be down, slow or wrong at one exact moment, and counts what it was given.
"""

import pytest

from benchmarks.faults import ROWS, find_rows, run_row

TASKS = 100
HERE = (
    "worker_killed_3_times", "popped_not_recorded", "writer_killed_after_post", "two_writers",
    "api_killed_before_answer", "poison_image", "fair_share", "redis_unreachable_60_s",
    "label_studio_429", "task_deleted_while_waiting",
)  # fmt: skip


@pytest.mark.parametrize("row", find_rows(",".join(HERE)), ids=lambda row: row.name)
def test_nothing_is_lost_and_nothing_doubled(row, tmp_path):
    result = run_row(row, tasks=TASKS, folder=tmp_path)
    assert (result.lost, result.duplicated, result.reason) == (0, 0, "")


def test_names_of_rows_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)
