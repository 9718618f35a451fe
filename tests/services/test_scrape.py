"""Counters of several processes in a real Redis: sums that never fall, whoever ends, and as Prometheus reads them."""

import subprocess
import sys

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from backend.dispatch import Dispatcher
from backend.metrics import outstanding, write_metrics
from backend.watch import Watch
from contract.broker import queue_depths
from contract.finetune import FinetuneRecords, new_finetune
from contract.heartbeats import Heartbeat
from contract.jobs import PredictJob
from contract.leases import Lease
from contract.meters import IMAGES, Tally, read_sums
from contract.projects import ProjectFacts, Projects
from contract.settings import read_settings
from contract.status import JobRecords
from tests.services.machine import REPOSITORY
from tests.services.waiting import wait_until

WORK = """
from contract.broker import connect_redis
from contract.meters import IMAGES, STAGE, TALLY
from contract.projects import ProjectFacts, Projects
from contract.settings import read_settings
from contract.status import JobRecords
client = connect_redis(read_settings())
for _ in range(10):
    for _ in range(10):
        IMAGES.add(model="tiny-1")
        STAGE.observe(0.3, stage="detect")
    TALLY.push(client)
"""


@pytest.fixture
def scrape(redis_url):
    """What a scraper reads: value by name and labels."""
    settings = read_settings({"REDIS_URL": redis_url})
    watch, dispatcher = Watch(settings), Dispatcher(settings)

    def read():
        text = write_metrics(watch, dispatcher).decode()
        return {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}

    return read


def test_four_processes_that_have_ended_are_one_sum(client, redis_url, scrape):
    commands = [subprocess.Popen([sys.executable, "-c", WORK], env={"REDIS_URL": redis_url}, cwd=REPOSITORY)
                for _ in range(4)]  # fmt: skip
    assert [command.wait(240) for command in commands] == [0] * 4
    found = scrape()
    assert found["groundcrew_images_total", "tiny-1"] == 400
    assert found["groundcrew_stage_seconds_count", "detect"] == 400
    assert found["groundcrew_stage_seconds_sum", "detect"] == pytest.approx(120)
    assert (found["groundcrew_stage_seconds_bucket", "0.25", "detect"],
            found["groundcrew_stage_seconds_bucket", "0.5", "detect"]) == (0, 400)  # fmt: skip


def test_a_push_that_failed_is_made_good_by_the_next_one(client, redis_url):
    tally = Tally()
    tally.add({("seen_total",): 2})
    with pytest.raises(redis.RedisError):
        tally.push(redis.Redis(host="127.0.0.1", port=1))
    tally.add({("seen_total",): 3})
    tally.push(client)
    tally.push(client)
    assert read_sums(client) == {("seen_total",): 5}


def test_a_process_that_stops_leaves_nothing_uncounted(client):
    before = read_sums(client).get((IMAGES.name, "last"), 0)
    heartbeat = Heartbeat(client, "worker-1@h", dict)
    IMAGES.add(7, model="last")
    heartbeat.stop()
    assert read_sums(client)[IMAGES.name, "last"] == before + 7


def test_a_scrape_shows_what_waits_and_how_long(client, scrape):
    # given a message that was sent two minutes ago, and one that has no time
    client.lpush("write", '{"headers": {"id": "w.a.b"}}')
    client.lpush("predict.interactive", '{"headers": {"sent_at_s": "%f"}}' % (float(client.time()[0]) - 120))
    client.zadd("gc:open", {"p7-t1-0.a": float(client.time()[0]) - 60})
    found = scrape()
    assert found["groundcrew_queue_messages", "write"] == 1
    assert found["groundcrew_queue_oldest_seconds", "predict.interactive"] == pytest.approx(120, abs=10)
    assert found["groundcrew_queue_oldest_seconds", "write"] == 0
    assert found["groundcrew_oldest_open_job_seconds", "7"] == pytest.approx(60, abs=10)


def test_what_living_workers_say_of_themselves(client, scrape):
    facts = {"role": "predict", "images": 12, "busy_s": 0.5, "gpu": "GPU-1", "models": ["tiny-1"],
             "device_memory_bytes": 80, "device_memory_used_bytes": 40}  # fmt: skip
    heartbeat = Heartbeat(client, "worker-1@h", lambda: facts)
    heartbeat.start()
    wait_until(lambda: ("groundcrew_processes", "predict") in scrape(), "the first beat")
    found = scrape()
    heartbeat.stop()
    assert found["groundcrew_processes", "predict"] == 1
    assert found["groundcrew_worker_images", "worker-1@h"] == 12
    assert found["groundcrew_gpu_leases", "GPU-1", "worker-1@h"] == 1
    assert found["groundcrew_loaded_models", "tiny-1", "worker-1@h"] == 1
    assert found["groundcrew_device_memory_used_bytes", "worker-1@h"] == 40


def test_a_training_is_named_with_each_of_its_gpus_as_long_as_a_trainer_has_it(client, scrape):
    finetunes, job = FinetuneRecords(client), new_finetune(3, "cli")
    finetunes.request(job)
    finetunes.start(job, "trainer-1@h")
    finetunes.progress(job.id, gpus="GPU-1,GPU-2")
    lease = Lease(client, job.id)
    assert lease.acquire()
    found = scrape()
    assert [found["groundcrew_gpu_leases", f"GPU-{n}", "trainer-1@h"] for n in (1, 2)] == [1, 1]
    lease.release()
    assert ("groundcrew_gpu_leases", "GPU-1", "trainer-1@h") not in scrape()


def test_what_scales_a_role_counts_what_is_in_hand_too(client, redis_url):
    # given a predict job that runs, one that is written, and a fine-tune that a trainer has
    settings = read_settings({"REDIS_URL": redis_url})
    records, finetunes = JobRecords(client, failed_memory_s=0), FinetuneRecords(client)
    Projects(client).remember(ProjectFacts(project_id=3, config_id="c", model_version="v"))
    jobs = [PredictJob(project_id=3, task_id=task, image="i", config_id="c", model="m", model_version="v",
                       id=f"p3-t{task}-0") for task in (1, 2)]  # fmt: skip
    records.admit(jobs)
    for job in jobs:
        records.start(job, redelivered=False, worker="w")
    records.predicted(jobs[0], boxes=1)
    finetune = new_finetune(3, "cli")
    finetunes.request(finetune)
    finetunes.start(finetune, "trainer")

    # then no queue holds a message, and yet each role has work
    assert sum(queue_depths(client, settings.queue_shards).values()) == 0
    found = outstanding(Watch(settings), Dispatcher(settings))
    assert found == {"predict": 1, "write": 1, "train": 1}


def test_a_worker_looks_alive_only_while_redis_takes_its_heartbeats(client, tmp_path):
    # given a process whose Redis is away, and one whose Redis is there
    away, here = tmp_path / "away", tmp_path / "here"
    lost = Heartbeat(redis.Redis(host="127.0.0.1", port=1), "worker-1@h", dict, alive_file=away)
    beating = Heartbeat(client, "worker-2@h", dict, alive_file=here)
    lost.start()
    beating.start()
    wait_until(here.exists, "the first beat")

    # then only one touches the file that its container's health check looks at
    assert not away.exists()
    beating.stop()
    with pytest.raises(redis.RedisError):
        lost.stop()
