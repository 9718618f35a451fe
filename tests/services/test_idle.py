"""A trainer that ends when there is nothing to train, with a real Redis."""

import threading

from contract.finetune import FinetuneRecords, new_finetune
from worker.idle import leave_when_idle


def test_it_ends_when_nothing_is_queued_or_running(client):
    left = threading.Event()
    leave_when_idle(FinetuneRecords(client), left.set, after_s=0.1)
    assert left.wait(30)


def test_it_stays_while_a_fine_tune_waits_or_runs_and_ends_after_it(client):
    # given a fine-tune
    records, job, left = FinetuneRecords(client), new_finetune(3, "cli"), threading.Event()
    records.request(job)
    thread = leave_when_idle(records, left.set, after_s=0.1)
    records.start(job, "trainer")
    thread.join(timeout=1.0)
    assert not left.is_set()

    # when it is over
    records.finish(job.id, version="v", decision="refused", reason="no better")

    # then the trainer ends
    assert left.wait(30)
