"""A fine-tune's GPUs from end to end: a real trainer, Label Studio and Redis; only the list of GPUs is made up.

Called by: pytest. Must not import: torch.
Example: pytest tests/services/test_finetune_gpus.py
"""

import pytest

from contract.finetune import FinetuneRecords
from contract.leases import is_held, owners
from contract.settings import read_settings
from tests.services.processes import wait_for_end_of
from tests.services.trainers import QUICK, ask_for, run_trainer, start_trainer
from tests.services.waiting import wait_until
from worker.gpu_seats import seat_keys
from worker.training_gpus import WAITING

GPUS = ("GPU-0", "GPU-1", "GPU-2")
CANCEL_LIMIT_S = 10.0  #: promised, whatever the trainer is doing


@pytest.fixture
def settings_with(trainer_variables):
    return lambda sharing: read_settings(trainer_variables | {"GPU_SHARING": sharing})


@pytest.fixture
def records(client):
    return FinetuneRecords(client)


def put_workers(client, *uuids):
    for uuid in uuids:
        client.set(f"gc:lease:gpu:{uuid}:0", "a worker")


def gpus_of(client, job):
    """Those that the job has leased."""
    return [uuid for uuid in GPUS if job.id in owners(client, seat_keys(uuid, training=True))]


def test_it_trains_and_measures_on_free_gpus_and_after_kill_9_on_the_same_ones(
    settings_with, client, records, annotated
):
    # given a worker on one of three GPUs, and a trainer that dies as its training is measured
    put_workers(client, "GPU-0")
    job = ask_for(records, annotated, processes=2, **QUICK)
    assert run_trainer(settings_with("wait"), job, "trainer", "evaluate", gpus=GPUS).returncode == -9
    assert gpus_of(client, job) == ["GPU-1", "GPU-2"]
    assert records.get(job.id)["gpus"] == "GPU-1,GPU-2"

    # when another trainer goes on, although no GPU is free but those of the dead one
    wait_until(lambda: not is_held(client, job.id), "the dead trainer's lease of the job to lapse")
    ended = run_trainer(settings_with("refuse"), job, gpus=GPUS)

    # then the job ends well, what computed saw these two only, and they are free again
    assert (ended.returncode, records.get(job.id)["state"]) == (0, "done"), ended.stderr
    for stage in ("train", "evaluate"):
        assert client.get(f"test:visible:{job.id}:{stage}") == "GPU-1,GPU-2"
    assert client.get(f"test:visible:{job.id}:export") == "", "an export takes no GPU"
    assert gpus_of(client, job) == []


def test_where_all_are_taken_it_waits_visibly_and_is_cancelled_at_once(settings_with, client, records, annotated):
    put_workers(client, *GPUS)
    job = ask_for(records, annotated, **QUICK)
    trainer = start_trainer(settings_with("wait"), job, gpus=GPUS)
    wait_until(lambda: records.get(job.id).get("stage") == WAITING, "it to wait", lambda: str(records.get(job.id)))
    records.cancel_request(job.id)
    wait_until(lambda: records.get(job.id)["state"] == "cancelled", "the end", deadline_s=CANCEL_LIMIT_S)
    said, log = trainer.communicate(timeout=240)
    assert (trainer.returncode, said.strip()) == (0, "started"), log
    assert "is waiting for a GPU: 0 of the 1 GPUs it needs are free" in log
    wait_for_end_of(job.id)


def test_one_that_is_cancelled_by_kill_9_frees_its_gpu_at_once(settings_with, client, records, annotated):
    # given a training whose first update goes on for minutes, with no look at the flag in between
    job = ask_for(records, annotated, batch_size=2000, chunk_size=4, iterations=2)
    settings = settings_with("wait")
    trainer = start_trainer(settings, job, gpus=GPUS)
    begun = settings.local_model_dir / ".work" / job.id / "train" / "losses.jsonl"
    wait_until(begun.exists, "the training", lambda: str(records.get(job.id)))
    assert gpus_of(client, job) == ["GPU-0"]

    # when / then
    records.cancel_request(job.id)
    wait_until(lambda: records.get(job.id)["state"] == "cancelled", "the end", deadline_s=CANCEL_LIMIT_S)
    assert gpus_of(client, job) == []
    _, log = trainer.communicate(timeout=240)
    assert "its process is killed" in log


def test_with_refuse_it_fails_with_what_to_do(settings_with, client, records, annotated):
    put_workers(client, *GPUS)
    job = ask_for(records, annotated, **QUICK)
    run_trainer(settings_with("refuse"), job, gpus=GPUS)
    record = records.get(job.id)
    assert (record["state"], record["code"]) == ("failed", "bad_setting")
    assert record["reason"].startswith("GPU_SHARING=refuse: the training finds 0 free of the 1 it needs")
