"""`groundcrew finetune` and `groundcrew jobs cancel` with a real Redis; the trainer is a thread that plays its part."""

import threading

import pytest
from click.testing import CliRunner
from rich.progress import Progress

from contract.errors import TrainingDataError
from contract.finetune import FinetuneRecords
from contract.jobs import FINETUNE_QUEUE, FinetuneJob
from contract.settings import read_settings
from groundcrew.cli import cli
from groundcrew.finetune_command import FinetuneFailed, describe, draw, read_options
from tests.fakes.hand_worker import HandWorker


@pytest.fixture
def worker(redis_url):
    made = HandWorker(read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/10"}))
    made.redis.flushdb()
    return made


@pytest.fixture
def records(worker):
    return FinetuneRecords(worker.redis)


@pytest.fixture
def command(redis_url):
    """Runs `groundcrew ...`; returns what it says. Raises what it raises."""

    def run(*arguments):
        url = redis_url.removesuffix("/0") + "/10"
        return CliRunner().invoke(cli, [*arguments, "--redis-url", url], catch_exceptions=False).output

    return run


@pytest.fixture
def trainer(worker, records):
    """Takes the next fine-tune in a thread and ends it as the test says."""
    threads = []

    def play(end):
        def run():
            job = FinetuneJob.model_validate(worker.take(FINETUNE_QUEUE))
            assert records.start(job, "trainer-1") == "started"
            records.progress(job.id, stage="train", epoch=1, epochs=3, iteration=4, iterations=9, loss=2.5)
            end(job)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield play
    for thread in threads:
        thread.join()


def test_it_follows_a_job_to_its_end(command, trainer, records):
    trainer(lambda job: records.finish(job.id, version="tiny-shapes-p3-1", decision="promoted", reason="mAP rose"))
    said = command("finetune", "--project", "3", "--set", "epochs=5")
    assert "tiny-shapes-p3-1 is now the current version of project 3: mAP rose" in said
    assert "no trainer is alive" in said
    (record,) = records.latest(3)
    assert said.startswith(f"{record['id']}\n")
    assert (record["requested_by"], records.stored_job(record["id"]).options) == ("cli", {"epochs": 5})


def test_a_refused_version_is_no_failure_and_says_how_to_take_it(command, trainer, records):
    trainer(lambda job: records.finish(job.id, version="tiny-shapes-p3-1", decision="refused", reason="mAP fell"))
    assert "`groundcrew models promote tiny-shapes-p3-1`" in command("finetune", "--project", "3")


def test_a_failure_ends_with_its_reason(command, trainer, records):
    trainer(lambda job: records.fail(job.id, TrainingDataError("there are no annotations; annotate some")))
    with pytest.raises(FinetuneFailed, match="failed: there are no annotations; annotate some"):
        command("finetune", "--project", "3")


def test_detached_it_only_asks_and_joins_the_one_that_waits(command, worker, records):
    first = command("finetune", "--project", "3", "--detach", "--base", "tiny-shapes-1").splitlines()[0]
    assert command("finetune", "--project", "3", "--detach").splitlines()[0] == first
    assert records.get(first)["base"] == "tiny-shapes-1"
    assert worker.depths()[FINETUNE_QUEUE] == 1


def test_a_waiting_one_can_be_cancelled_by_its_id(command, records):
    job_id = command("finetune", "--project", "3", "--detach").splitlines()[0]
    assert "cancelled before it started" in command("jobs", "cancel", job_id)
    assert records.get(job_id)["state"] == "cancelled"
    assert job_id in command("jobs", "--project", "3")
    assert "cancelled" in command("jobs", job_id)


@pytest.mark.parametrize("words", [["cancel"], ["a", "b"], ["cancel", "a", "b"]])
def test_other_words_are_wrong_usage(command, words):
    assert "say `jobs`, `jobs JOB_ID` or `jobs cancel JOB_ID`" in command("jobs", *words)


def test_progress_is_said_in_words_as_far_as_it_is_known():
    assert describe({"state": "queued"}) == ""
    record = {"epoch": 3, "epochs": 12, "loss": 1.8421, "weighted_map": 0.5, "eta_s": 39.6, "cancel_requested": True}
    assert describe(record) == "epoch 3/12, loss 1.84, weighted mAP 0.500, 40 s left, stopping"


def test_a_stage_that_counts_images_has_its_own_bar():
    record = {"state": "running", "stage": "cut into tiles", "stage_done": 3, "stage_total": 40, "iterations": 9}
    with Progress() as bar:
        task = bar.add_task("queued", total=None, facts="")
        draw(bar, task, record)
        shown = bar.tasks[task]
    assert (shown.description, shown.completed, shown.total) == ("cut into tiles", 3, 40)
    assert shown.fields["facts"] == "3/40 images"


def test_options_get_their_types():
    assert read_options(("epochs=5", "lr=1e-4", "amp=true", "note=a=b")) == {
        "epochs": 5, "lr": 1e-4, "amp": True, "note": "a=b"}  # fmt: skip
