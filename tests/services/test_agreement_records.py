"""Agreement in a real Redis: twice the same, late, changed, deleted and too many annotations leave the right sums.

Run by: pytest. Must not import: worker.
Example: pytest tests/services/test_agreement_records.py
"""

from __future__ import annotations

from itertools import count

import pytest
import redis

from contract.agreement import Counts
from contract.agreement_records import AgreementRecords, Compared

V1, V2 = "tiny-shapes-1.00000000", "tiny-shapes-p1-1.00000000"
CAR, BUS = Counts(kept=3, moved=1, deleted=1, added=1), Counts(kept=1, relabelled=1)


@pytest.fixture
def records(client: redis.Redis) -> AgreementRecords:
    return AgreementRecords(client)


_clock = count(1)


def take_in(records: AgreementRecords, *compared: Compared) -> None:
    records.put(1, compared, now_s=next(_clock))


def of(annotation_id: int, updated_s: float = 10, version: str = V1, **by_label: Counts) -> Compared:
    return Compared(annotation_id, 100 + annotation_id, updated_s, version, by_label)


def sums(records: AgreementRecords) -> dict[str, tuple[int, dict[str, Counts]]]:
    return {one.model_version: (one.images, dict(one.by_label)) for one in records.versions(1)}


def test_annotations_add_up_by_version_and_label(records: AgreementRecords) -> None:
    # given / when
    take_in(records, of(1, car=CAR), of(2, car=CAR, bus=BUS))
    take_in(records, of(3, version=V2, 红绿灯=BUS))

    # then the newest version comes first
    assert sums(records) == {V1: (2, {"car": CAR + CAR, "bus": BUS}), V2: (1, {"红绿灯": BUS})}
    assert [one.model_version for one in records.versions(1)] == [V2, V1]
    assert records.versions(2) == []


def test_the_same_annotation_twice_counts_once(records: AgreementRecords) -> None:
    take_in(records, of(1, car=CAR))
    take_in(records, of(1, car=CAR))
    assert sums(records) == {V1: (1, {"car": CAR})}


def test_a_changed_annotation_takes_the_place_of_the_old_one(records: AgreementRecords) -> None:
    take_in(records, of(1, 10, car=CAR))
    take_in(records, of(1, 11, bus=BUS))
    assert sums(records) == {V1: (1, {"bus": BUS})}


def test_an_older_state_that_comes_late_changes_nothing(records: AgreementRecords) -> None:
    take_in(records, of(1, 11, bus=BUS))
    take_in(records, of(1, 10, car=CAR))
    assert sums(records) == {V1: (1, {"bus": BUS})}


def test_a_deleted_annotation_is_gone_for_good(records: AgreementRecords) -> None:
    # given / when it is deleted while its comparison is still under way
    take_in(records, of(1, car=CAR), of(2, bus=BUS))
    records.remove(1, [1, 3], now_s=next(_clock))
    take_in(records, of(1, 99, car=CAR), of(3, 99, car=CAR))

    # then
    assert sums(records) == {V1: (1, {"bus": BUS})}
    assert [one.annotation_id for one in records.worst(1, V1)] == [2]


def test_a_skipped_task_no_longer_counts_and_its_version_goes_with_its_last_image(records: AgreementRecords) -> None:
    take_in(records, of(1, car=CAR))
    take_in(records, of(1, 11, version=""))
    assert records.versions(1) == []


def test_only_the_latest_annotations_are_kept_and_the_sums_are_theirs(client: redis.Redis) -> None:
    records = AgreementRecords(client, kept=3)
    for number in range(1, 8):
        take_in(records, of(number, car=CAR))
    assert sums(records) == {V1: (3, {"car": CAR + CAR + CAR})}
    assert {one.annotation_id for one in records.worst(1, V1)} == {5, 6, 7}
    assert client.hlen("gc:agree:1:entries") == 3


def test_the_worst_images_come_first_and_perfect_ones_never(records: AgreementRecords) -> None:
    # given agreements of 0, 0.5, 1 and, with no box on either side, 1
    take_in(records, of(1, car=Counts(kept=1, deleted=1, added=1)), of(2, car=Counts(deleted=2)),
            of(3, car=Counts(kept=2)), of(4))  # fmt: skip

    # then
    assert [(one.task_id, one.total.f1) for one in records.worst(1, V1)] == [(102, 0.0), (101, 0.5)]
    assert [one.task_id for one in records.worst(1, V1, limit=1)] == [102]
    assert sums(records)[V1][0] == 4
