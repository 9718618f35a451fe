"""The writer stores each (task, version) once, whatever dies or fails in between. Real Redis, faked Label Studio."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.errors import BeingStored, JobCancelled, LabelStudioRefused, LabelStudioUnreachable
from contract.results import Results
from contract.status import JobRecords
from tests.fakes.jobs import write_job
from tests.fakes.prediction_store import FakePredictionStore
from worker.writer import LOOK_UP, Writer


@pytest.fixture
def store():
    return FakePredictionStore()


@pytest.fixture
def make_writer(client, store):
    return lambda: Writer(store, Results(client), JobRecords(client, failed_memory_s=600))


def write(writer, job):
    """One job alone. Raises what kept it from being stored."""
    (error,) = writer.write(1, [job])
    if error is not None:
        raise error


def test_many_predictions_go_in_one_request(make_writer, store):
    assert make_writer().write(1, [write_job(n) for n in range(100)]) == [None] * 100
    assert store.tasks() == list(range(100))
    assert store.requests == [100]


def test_of_two_runs_of_one_task_in_one_request_one_waits(make_writer, store):
    first, second = make_writer().write(1, [write_job(1), write_job(1)])
    assert (first, type(second)) == (None, BeingStored)
    assert store.tasks() == [1]


def test_the_same_message_delivered_twice_is_written_once(make_writer, store):
    writer, job = make_writer(), write_job(1)
    write(writer, job)
    write(writer, job)
    assert store.tasks() == [1]


def test_the_same_message_does_not_bring_back_what_someone_deleted_meanwhile(make_writer, store):
    writer, job = make_writer(), write_job(1)
    write(writer, job)
    store.stored.clear()
    write(writer, job)
    assert store.tasks() == []


def test_a_second_run_soon_after_looks_before_it_writes(make_writer, store):
    writer = make_writer()
    write(writer, write_job(1))
    write(writer, write_job(1))
    assert store.tasks() == [1]


def test_a_second_run_writes_when_the_prediction_was_deleted(make_writer, store):
    writer = make_writer()
    write(writer, write_job(1))
    store.stored.clear()
    write(writer, write_job(1))
    assert store.tasks() == [1]


def test_two_writers_at_once_store_one_prediction(make_writer, store):
    writers, jobs = [make_writer(), make_writer()], [write_job(n) for n in range(50)]
    with ThreadPoolExecutor(100) as pool:
        futures = [pool.submit(writer.write, 1, [job]) for job in jobs for writer in writers]
        ends = [future.result(120)[0] for future in futures]
    assert all(end is None or isinstance(end, LabelStudioUnreachable) for end in ends)
    assert store.tasks() == list(range(50))


def test_after_a_lost_answer_the_retry_does_not_write_again(make_writer, store):
    writer, job = make_writer(), write_job(1)
    store.lose_answer = True
    with pytest.raises(LabelStudioUnreachable):
        write(writer, job)
    write(writer, job)
    assert store.tasks() == [1]


def test_label_studio_down_is_worth_a_retry_and_loses_nothing(make_writer, store):
    writer, job = make_writer(), write_job(1)
    store.down = True
    with pytest.raises(LabelStudioUnreachable) as raised:
        write(writer, job)
    assert raised.value.retry
    store.down = False
    write(writer, job)
    assert store.tasks() == [1]


def test_one_bad_task_spoils_no_other(make_writer, store):
    store.unknown_tasks = {13}
    ends = make_writer().write(1, [write_job(n) for n in range(40)])
    assert [n for n, end in enumerate(ends) if end is not None] == [13]
    assert isinstance(ends[13], LabelStudioRefused)
    assert store.tasks() == [n for n in range(40) if n != 13]


def test_what_label_studio_drops_silently_is_noticed_and_named(make_writer, store):
    store.dropped_tasks = {3}
    ends = make_writer().write(1, [write_job(n) for n in range(10)])
    assert [n for n, end in enumerate(ends) if end is not None] == [3]
    assert "dropped" in str(ends[3])
    assert store.look_ups == [10]


def test_a_job_told_to_verify_does_not_double_what_label_studio_stored_itself(make_writer, store):
    store.stored.append(write_job(1).prediction)
    write(make_writer(), write_job(1, verify=True))
    assert store.tasks() == [1]


def test_the_prediction_of_a_deleted_task_is_not_written(make_writer, client, store):
    JobRecords(client, failed_memory_s=1).mark_deleted(1, [1])
    with pytest.raises(JobCancelled):
        write(make_writer(), write_job(1))
    assert store.requests == []


def test_a_new_prediction_takes_the_place_of_the_old_versions_one(make_writer, store):
    writer, old = make_writer(), write_job(1).prediction.model_copy(update={"model_version": "old"})
    store.stored = [old, old.model_copy(update={"task_id": 2})]
    write(writer, write_job(1, replaces="old"))
    assert sorted((p.task_id, p.model_version == "old") for p in store.stored) == [(1, False), (2, True)]


def test_what_many_replace_is_asked_for_together(make_writer, store):
    # given tasks whose old predictions go, one that has none, and one that keeps its own
    jobs = [write_job(n, replaces="old") for n in range(2 * LOOK_UP)] + [write_job(500)]
    old = [job.prediction.model_copy(update={"model_version": "old"}) for job in jobs[1:]]
    store.stored = [*old, old[5].model_copy()]

    # when
    assert make_writer().write(1, jobs) == [None] * len(jobs)

    # then
    assert (store.requests, store.look_ups) == ([len(jobs)], [LOOK_UP, LOOK_UP])
    assert [p.task_id for p in store.stored if p.model_version == "old"] == [500]
    assert store.tasks() == sorted([*range(2 * LOOK_UP), 500, 500])


def test_what_replaces_is_stored_before_anything_is_deleted(make_writer, store):
    job = write_job(1, replaces="old")
    store.stored = [job.prediction.model_copy(update={"model_version": "old"})]
    at_deletion = []
    store.on_delete = lambda: at_deletion.append([p.model_version for p in store.stored])
    write(make_writer(), job)
    assert at_deletion == [["old", job.prediction.model_version]]


def test_of_many_replaced_one_that_cannot_be_deleted_now_comes_back_alone(make_writer, store):
    jobs = [write_job(n, replaces="old") for n in range(5)]
    store.stored = [job.prediction.model_copy(update={"model_version": "old"}) for job in jobs]
    store.stuck = {id(store.stored[3])}
    ends = make_writer().write(1, jobs)
    assert [n for n, end in enumerate(ends) if end is not None] == [3]
    assert ends[3].retry

    # and the next time nothing is written twice
    store.stuck = set()
    assert make_writer().write(1, [jobs[3]]) == [None]
    assert store.tasks() == list(range(5))
    assert {p.model_version for p in store.stored} == {jobs[0].prediction.model_version}


def test_where_the_list_is_refused_old_ones_go_by_asking_for_each_task(make_writer, store):
    store.refuses_lists = True
    jobs = [write_job(n, replaces="old") for n in range(3)]
    store.stored = [job.prediction.model_copy(update={"model_version": "old"}) for job in jobs]
    assert make_writer().write(1, jobs) == [None] * 3
    assert store.tasks() == [0, 1, 2]


def test_the_old_one_goes_in_the_end_even_when_label_studio_is_away_in_between(make_writer, store):
    writer, job = make_writer(), write_job(1, replaces="old")
    store.stored = [job.prediction.model_copy(update={"model_version": "old"})]
    store.refuses_removal = True
    with pytest.raises(LabelStudioUnreachable):
        write(writer, job)
    store.refuses_removal = False
    write(writer, job)
    assert [p.model_version for p in store.stored] == [job.prediction.model_version]


def test_a_job_from_before_redis_was_started_is_looked_up_since_its_mark_may_be_lost(make_writer, store):
    store.stored.append(write_job(1).prediction)
    write(make_writer(), write_job(1, asked_at_s=1.0))
    assert store.tasks() == [1]


def test_jobs_from_before_redis_was_started_are_looked_up_together(make_writer, store):
    # given predictions of which Label Studio has every third, and one that replaces another
    jobs = [write_job(n, asked_at_s=1.0, replaces="old" if n == 3 else "") for n in range(2 * LOOK_UP + 1)]
    store.stored = [job.prediction for job in jobs[::3]]
    store.stored += [jobs[n].prediction.model_copy(update={"model_version": "old"}) for n in (1, 3)]

    # when
    ends = make_writer().write(1, jobs)

    # then
    assert (ends, store.look_ups) == ([None] * len(jobs), [LOOK_UP, LOOK_UP, 1, 1])
    assert store.tasks() == sorted([*range(len(jobs)), 1])
    assert [p.task_id for p in store.stored if p.model_version == "old"] == [1]


def test_a_question_that_fails_concerns_only_the_jobs_it_is_about(make_writer, store):
    store.slow_tasks = {3}
    ends = make_writer().write(1, [write_job(n, verify=True) for n in range(LOOK_UP + 5)])
    assert [n for n, end in enumerate(ends) if isinstance(end, LabelStudioUnreachable)] == list(range(LOOK_UP))
    assert store.tasks() == list(range(LOOK_UP, LOOK_UP + 5))


def test_a_task_that_label_studio_does_not_list_is_asked_for_alone(make_writer, store):
    store.unknown_tasks = {3}
    ends = make_writer().write(1, [write_job(n, verify=True) for n in range(5)])
    assert [n for n, end in enumerate(ends) if isinstance(end, LabelStudioRefused)] == [3]
    assert (store.tasks(), store.requests, store.look_ups) == ([0, 1, 2, 4], [4], [5, 1])


def test_where_the_list_is_refused_each_task_is_asked_for_alone(make_writer, store):
    store.refuses_lists = True
    store.stored.append(write_job(2).prediction)
    assert make_writer().write(1, [write_job(n, verify=True) for n in range(3)]) == [None] * 3
    assert (store.tasks(), store.look_ups) == ([0, 1, 2], [3, 1, 1, 1])


def test_a_lock_that_lapsed_is_not_taken_from_its_next_owner(make_writer, client, store):
    writer, job = make_writer(), write_job(1)
    store.on_store = lambda: client.set(f"gc:lock:{job.id}", "another writer")
    write(writer, job)
    assert client.get(f"gc:lock:{job.id}") == "another writer"
