"""kill -9 of `groundcrew up`: nothing it started lives on, and the next one in the same directory has all jobs."""

import json
import os
import signal

import psutil
import redis

from groundcrew.crew import Crew
from tests.fakes.jobs import predict_job
from tests.services.waiting import wait_until


def redis_url(folder):
    return json.loads((folder / ".groundcrew" / "up.json").read_text())["redis_url"]


def test_after_kill_9_no_child_lives_on_and_the_next_crew_takes_over_its_jobs(tmp_path):
    with Crew.start(tmp_path, {}) as crew:
        family = psutil.Process(crew.pid).children(recursive=True)
        with redis.Redis.from_url(redis_url(tmp_path)) as client:
            client.set("kept", predict_job(1).id)
        os.kill(crew.pid, signal.SIGKILL)
        wait_until(lambda: not any(_runs(one) for one in family), "its children to end", lambda: str(family))
    with Crew.start(tmp_path, {}) as crew, redis.Redis.from_url(redis_url(tmp_path)) as client:
        assert client.get("kept").decode() == predict_job(1).id


def _runs(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
