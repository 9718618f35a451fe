"""Each benchmark of queue and pipeline runs with a few tasks and prints its fields; what it says is not judged here.

Called by: pytest. Must not import: backend, torch.
Example: pytest tests/services/test_benchmarks.py
"""

import json
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise

import pytest
import requests

from benchmarks.crew import start_crew, wait_until
from benchmarks.load import fill_queue, open_queue, predict_body, save_pictures, typed
from contract.status import JobRecords
from tests.services.machine import REPOSITORY, absent

PIPELINE_FIELDS = {"tasks", "ours_s", "baseline_s", "ratio", "detector_busy"}
QUEUE_FIELDS = {
    "scale": {"rows", "ratio_batch_1", "ratio_batch_8"},
    "latency": {
        "predict_1_p50_ms", "predict_1000_p95_ms", "interactive_idle_over_detector_ms", "interactive_busy_p95_ms",
    },
    "webhooks": {"webhook_max_ms", "redis_bytes_a_waiting_task", "memory_mib", "all_waiting_s"},
    "cost": {"ms_a_task", "redis_commands"},
    "write": {"predictions_per_s", "alone_p50_ms", "writer_cpu_s_per_1000"},
}  # fmt: skip
BATCH = 4


@pytest.fixture(autouse=True)
def redis_server():
    return shutil.which("redis-server") or absent("redis-server")


def bench(*arguments):
    """What the command's last line says."""
    command = [sys.executable, "-m", "groundcrew", "bench", *arguments, "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("part", QUEUE_FIELDS)
def test_a_part_of_the_queue_benchmark_prints_its_figures(part):
    found = bench("queue", "--part", part, "--size", "0.01")
    assert found["part"] == part
    assert QUEUE_FIELDS[part] <= found.keys()


def test_the_pipeline_benchmark_prints_both_times_and_their_ratio():
    found = bench("pipeline", "--tasks", "24", "--baseline-tasks", "6", "--rounds", "1")
    assert found.keys() >= PIPELINE_FIELDS
    assert found["tasks"] == 24
    assert 0 < found["detector_busy"] < 1


def test_a_typed_prompt_is_answered_while_bulk_jobs_wait_and_batches_stay_one_at_a_time(tmp_path):
    save_pictures(tmp_path)
    environment = {"LOCAL_FILES_ROOT": str(tmp_path), "BATCH_SIZE": str(BATCH)}
    prepare = partial(fill_queue, tasks=2000)  # twenty seconds of work, of which one answer takes a little
    with start_crew(tmp_path, workers=1, parts=("API",), environment=environment, prepare=prepare) as crew:
        open_queue(crew.settings, crew.client)
        wait_until(lambda: any(call.images == BATCH for call in crew.calls()), 120, "a full batch")
        body = predict_body([2], context=typed("red circle"))
        answer = requests.post(f"{crew.url}/predict", json=body, timeout=120).json()
        waiting = JobRecords(crew.client, failed_memory_s=1).open_count()
        calls = crew.calls()
    assert answer["results"][0]["result"]
    assert waiting > BATCH
    assert all(first.ended_s <= second.began_s for first, second in pairwise(calls))
