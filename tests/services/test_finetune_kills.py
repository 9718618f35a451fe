"""kill -9 of the trainer, or of the process that trains, in each stage: a fine-tune ends in exactly one version.

Called by: pytest. Must not import: torch.
Example: pytest tests/services/test_finetune_kills.py
"""

import pytest

from contract.finetune import FinetuneRecords
from contract.leases import is_held
from contract.registry import Registry
from contract.settings import read_settings
from tests.services.processes import wait_for_end_of
from tests.services.trainers import QUICK, ask_for, run_trainer, start_trainer
from tests.services.waiting import wait_until

STAGES = ("export", "train", "evaluate", "publish", "promote")
CANCEL_LIMIT_S = 10.0  #: promised, whatever the trainer is doing


@pytest.fixture
def settings(trainer_variables):
    return read_settings(trainer_variables | {"DEVICE": "cpu"})


@pytest.fixture
def records(client):
    return FinetuneRecords(client)


def check_one_version(settings, records, job):
    """The job is done, and there is one version of it, whole, current if it was promoted; nothing lies about."""
    record = records.get(job.id)
    assert record["state"] == "done", record
    registry = Registry(settings)
    made = [listed for listed in registry.list(job.project_id) if listed.card.job_id]
    assert [listed.ref for listed in made] == [record["version"]]
    expected = record["version"] if record["decision"] == "promoted" else registry.base.ref
    assert registry.current(job.project_id).ref == expected
    assert registry.fetch(record["version"]).checkpoint.exists()
    assert not (settings.local_model_dir / ".work" / job.id).exists()


def test_killed_in_every_stage_it_still_ends_in_exactly_one_version(settings, client, records, annotated):
    job = ask_for(records, annotated, **QUICK)
    for stage in STAGES:
        ended = run_trainer(settings, job, "trainer", stage)
        assert ended.returncode == -9, f"not killed in {stage}: {ended.stderr}"
        assert records.get(job.id)["state"] == "running", "nobody has said that it is over"
        wait_for_end_of(job.id)
        wait_until(lambda: not is_held(client, job.id), "the dead trainer's lease to lapse")
    ended = run_trainer(settings, job)
    assert ended.returncode == 0, ended.stderr
    check_one_version(settings, records, job)


def test_a_process_that_is_killed_is_started_again_by_its_trainer(settings, records, annotated):
    job = ask_for(records, annotated, **QUICK)
    ended = run_trainer(settings, job, "process", "train,promote")
    assert (ended.returncode, ended.stderr.count("ended with code -9")) == (0, 2), ended.stderr
    check_one_version(settings, records, job)


def test_a_process_that_dies_each_time_is_given_up_with_a_sentence(settings, records, annotated):
    job = ask_for(records, annotated, **QUICK)
    run_trainer(settings, job, "process", "always:train")
    record = records.get(job.id)
    assert (record["state"], record["code"]) == ("failed", "training_killed")
    assert "killed by SIGKILL, 3 times: if this machine is short of memory" in record["reason"]
    assert not (settings.local_model_dir / ".work" / job.id).exists()


def test_cancelling_takes_ten_seconds_even_if_one_update_takes_minutes(settings, records, annotated):
    # given a training whose first update goes on for minutes, with no look at the flag in between
    job = ask_for(records, annotated, batch_size=2000, chunk_size=4, iterations=2)
    trainer = start_trainer(settings, job)
    wait_until(lambda: records.get(job.id).get("stage") == "train", "the training", lambda: str(records.get(job.id)))
    wait_until(lambda: (settings.local_model_dir / ".work" / job.id / "train" / "losses.jsonl").exists(), "its start")

    # when
    records.cancel_request(job.id)

    # then the job is over, its process gone, nothing published, and the trainer ready for another one
    wait_until(lambda: records.get(job.id)["state"] == "cancelled", "the end", deadline_s=CANCEL_LIMIT_S)
    said, log = trainer.communicate(timeout=240)
    assert (trainer.returncode, said.strip()) == (0, "started"), log
    assert "its process is killed" in log
    wait_for_end_of(job.id)
    assert [listed.ref for listed in Registry(settings).list(annotated)] == ["tiny-shapes-1"]
    assert not (settings.local_model_dir / ".work" / job.id).exists()


def test_a_live_lease_keeps_a_second_trainer_away(settings, client, records, annotated):
    job = ask_for(records, annotated)
    client.set(f"gc:lease:{job.id}", "someone else")
    assert run_trainer(settings, job).stdout.strip() == "over"
    assert records.get(job.id)["state"] == "queued"
