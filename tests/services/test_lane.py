"""The lane of bulk jobs in a real worker process, with a detector that sleeps.

Called by: pytest. Must not import: backend, worker, torch.
"""

from __future__ import annotations

from functools import partial

from benchmarks.crew import start_crew, wait_until
from benchmarks.load import PROJECT, fill_queue, open_queue, queue_of, save_pictures
from contract.broker import UNACKED_KEY
from contract.jobs import WRITE_QUEUE
from contract.status import JobRecords

IN_HAND = 64  #: jobs that a worker has in hand, WORKER_THREADS: two seconds of work, also where a look takes one


def test_given_jobs_in_hand_when_the_worker_is_told_to_end_then_each_is_finished_first(tmp_path):
    save_pictures(tmp_path)
    environment = {"BATCH_SIZE": "1", "WORKER_THREADS": str(IN_HAND), "LOCAL_FILES_ROOT": str(tmp_path)}
    prepare = partial(fill_queue, tasks=IN_HAND)
    with start_crew(tmp_path, workers=1, parts=(), environment=environment, prepare=prepare) as crew:
        records = JobRecords(crew.client, failed_memory_s=600)
        open_queue(crew.settings, crew.client)
        wait_until(lambda: records.counts(PROJECT)["queued"] == 0, 120, "the worker's hands to be full")
        assert records.counts(PROJECT)["running"] > 0, "the detector has two seconds of work"

        crew.parts["workers"][0].stop(grace_s=120)

        counts = records.counts(PROJECT)
        assert (counts["queued"], counts["running"], counts["writing"]) == (0, 0, IN_HAND)
        assert crew.client.llen(WRITE_QUEUE) == IN_HAND
        assert crew.client.llen(queue_of(crew.settings)) == crew.client.hlen(UNACKED_KEY) == 0
