"""Rows: processes that die, hang, leave, or stop listening.

Called by: benchmarks/faults.py. Must not import: backend, worker.
Example: `ROWS[0].run(site, 1000)`
"""

from __future__ import annotations

import random
import time

import requests

from benchmarks.faults_row import Outcome, Row, finish, numbers
from benchmarks.faults_site import LABELS, Site, image_uri, wait_until
from contract.broker import make_celery
from contract.heartbeats import alive
from contract.jobs import bulk_queue

POISON, HANG = (255, 0, 0), (0, 0, 255)  # see benchmarks/faults_worker.py
KILLS = 20
ROUNDS = 12  #: label configs that each task is predicted under, so that 1,000 tasks are 12,000 jobs
LEFT_WITHIN_S = 30.0
IN_HAND = 40  #: more than what a worker may have popped before the late project came, and the batches of the writer
LEADS = "this process now sends delayed and lost messages"


def worker_killed(site: Site, tasks: int) -> Outcome:
    """kill -9 in the middle of a batch, three times."""
    version = site.setup()
    site.announce(numbers(tasks))
    for share in (0.2, 0.4, 0.6):
        site.wait_stored_count(int(share * tasks), version)
        site.kill("worker 1")
    return finish(site, numbers(tasks), version, time.monotonic())


def worker_killed_often(site: Site, tasks: int) -> Outcome:
    """kill -9 of one of two workers, 20 times at random moments, with 12 fast jobs a task."""
    configs = [(*LABELS, f"kind {number}") for number in range(ROUNDS)]
    versions = [site.setup(labels=labels) for labels in configs]
    for labels in configs:
        site.announce(numbers(tasks), labels=labels)
    chance = random.Random(6)  # noqa: S311 - the same moments each time
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.5, 3.5))
        site.kill(f"worker {chance.choice((1, 2))}")
    ended_s = time.monotonic()
    outcomes = [finish(site, numbers(tasks), version, ended_s) for version in versions]
    return Outcome(frozenset().union(*(one.expected for one in outcomes)), max(one.recovery_s for one in outcomes))


def popped_not_recorded(site: Site, tasks: int) -> Outcome:
    """kill -9 exactly between kombu's pop and its record: the message is gone, its job's record is not."""
    version = site.setup()
    site.announce(numbers(tasks))
    once = site.folder / "once"
    wait_until(once.exists, 60, "the death between pop and record", site.log_tails)
    outcome = finish(site, numbers(tasks), version, time.monotonic())
    assert any(site.logged(name, "was lost; sent again") for name in site.parts if name.startswith("writer"))
    return outcome


def writer_killed(site: Site, tasks: int) -> Outcome:
    """kill -9 of the writer after its POST was stored and before its mark."""
    version, ended = site.setup(), []

    def kill() -> None:
        site.kill("writer 1")
        ended.append(time.monotonic())

    site.announce(numbers(tasks))
    site.wait_stored_count(tasks // 4, version)
    site.label_studio.before_answer = kill
    wait_until(lambda: bool(ended), 60, "a POST", site.log_tails)
    return finish(site, numbers(tasks), version, ended[0])


def api_killed(site: Site, tasks: int) -> Outcome:
    """kill -9 of the API between enqueue and answer; Label Studio asks again."""
    version, few = site.setup(), numbers(tasks)[:10]
    for some in (few, numbers(tasks)):
        _die_answering(site, some)
    ended_s = time.monotonic()
    wait_until(site.api_answers, 30, "the API")
    assert site.predict(few).ok
    assert site.predict(numbers(tasks)).ok
    return finish(site, numbers(tasks), version, ended_s)


def api_dies_after_claim(site: Site, tasks: int) -> Outcome:
    """The API claims the delivery of five opened tasks and dies: the writer's check delivers them."""
    version, opened = site.setup(), numbers(tasks)[:5]
    for task in opened:
        _die_answering(site, [task])
        wait_until(site.api_answers, 30, "the API")
    ended_s = time.monotonic()
    outcome = finish(site, opened, version, ended_s)
    site.announce(numbers(tasks))
    return finish(site, numbers(tasks), version, time.monotonic() - outcome.recovery_s)


def _die_answering(site: Site, tasks: range | list[int]) -> None:
    try:
        answer = site.predict(tasks, die=True)
    except requests.ConnectionError:
        return
    raise AssertionError(f"the API should have died, but answered {answer.status_code}")


def scaled_down(site: Site, tasks: int) -> Outcome:
    """SIGTERM to one of two workers: what runs is finished, what waits goes back, and it leaves in time."""
    version = site.setup()
    site.announce(numbers(tasks))
    site.wait_stored_count(tasks // 10, version)
    left_s = site.retire("worker 2")
    assert left_s < LEFT_WITHIN_S, f"it took {left_s:.0f} s to leave"
    return finish(site, numbers(tasks), version, time.monotonic())


def two_writers(site: Site, tasks: int) -> Outcome:
    """Each write-back is delivered three times, to two writers at once."""
    version = site.setup()
    for name in ("writer 1", "writer 2"):
        site.pause(site.parts[name].child.pid)
    site.ask(list(numbers(tasks)))
    popped = 4  # by writers that were stopped in the middle of waiting for one
    wait_until(lambda: site.client.llen("write") >= tasks - popped, 60, "the write-backs", site.log_tails)
    for message in site.client.lrange("write", 0, -1):
        tag = str(message).partition('"delivery_tag":')[2].split('"')[1]
        site.client.lpush("write", *[str(message).replace(tag, f"{tag}-{copy}") for copy in range(2)])
    ended_s = time.monotonic()
    site.resume()
    return finish(site, numbers(tasks), version, ended_s)


def leader_dies(site: Site, tasks: int) -> Outcome:
    """kill -9 of the process that sends what is lost, with messages lost: the other writer takes over."""
    version = site.setup()
    site.pause(site.parts["worker 1"].child.pid)
    site.ask(list(numbers(tasks)))
    site.client.rpop(bulk_queue(1, site.settings.queue_shards), tasks // 10)
    leader = next(name for name in ("writer 1", "writer 2") if site.logged(name, LEADS))
    site.kill(leader)
    site.resume()
    return finish(site, numbers(tasks), version, time.monotonic())


def poison(site: Site, tasks: int) -> Outcome:
    """One image kills its worker: it is buried after three deaths alone, and no neighbour is blamed."""
    return _one_bad(site, tasks, POISON)


def detector_hangs(site: Site, tasks: int) -> Outcome:
    """One image hangs the detector: the worker leaves and is started again; the image ends as poison."""
    outcome = _one_bad(site, tasks, HANG)
    assert site.logged("worker 1", "detector silent for over")
    return outcome


def _one_bad(site: Site, tasks: int, colour: tuple[int, int, int]) -> Outcome:
    version, bad = site.setup(), tasks // 2
    site.announce(numbers(tasks), images={bad: image_uri(colour)})
    began_s = time.monotonic()
    wait_until(lambda: site.records.dead.count() > 0, 180, "the dead letter", site.log_tails)
    (letter,) = site.records.dead.list()
    assert (letter.code, f"-t{bad}-" in letter.id) == ("poison", True), letter
    outcome = finish(site, [task for task in numbers(tasks) if task != bad], version, began_s)
    assert site.records.counts(1)["failed"] == 1
    return outcome


def out_of_memory(site: Site, tasks: int) -> Outcome:
    """The device holds one image only: batches are halved, down to single images."""
    version = site.setup()
    site.announce(numbers(tasks))
    outcome = finish(site, numbers(tasks), version, time.monotonic())
    assert site.logged("worker 1", "out of device memory")
    return outcome


def deaf_worker(site: Site, tasks: int) -> Outcome:
    """A worker that is connected and consumes no more leaves by itself, and is started again."""
    version, queue = site.setup(), bulk_queue(1, site.settings.queue_shards)
    name = next(str(process["name"]) for process in alive(site.client) if process["role"] == "predict")
    make_celery(site.settings).control.cancel_consumer(queue, destination=[name], reply=True, timeout=5)
    began_s = time.monotonic()
    site.announce(numbers(tasks))
    outcome = finish(site, numbers(tasks), version, began_s)
    assert site.logged("worker 1", "has consumed nothing for")
    return outcome


def fair_share(site: Site, tasks: int) -> Outcome:
    """A project that comes late with few tasks is served beside one with many, not after it."""
    few = numbers(tasks // 20)
    version = site.setup()
    site.pause(site.parts["worker 1"].child.pid)
    site.ask(list(numbers(tasks)))
    for start in range(0, len(few), 20):
        site.announce([10**6 + task for task in few[start : start + 20]], project=2)
    site.resume()
    late = {10**6 + task for task in few}
    outcome = finish(site, [*numbers(tasks), *late], version, time.monotonic())
    last = max(place for place, project in enumerate(site.label_studio.order) if project == 2)
    assert last < 4 * len(few) + IN_HAND, f"the last of {len(few)} came as number {last}"
    return outcome


ROWS = (
    Row("worker_killed_3_times", worker_killed, limit_s=60),
    Row("worker_killed_20_times", worker_killed_often, limit_s=115, workers=2, worker_env={"FAULT_CALL_S": "0.005"}),
    Row("popped_not_recorded", popped_not_recorded, limit_s=60,
        worker_env={"FAULT_POPS": "1", "FAULT_ONCE": "{folder}/once"}),
    Row("writer_killed_after_post", writer_killed, limit_s=60),
    Row("api_killed_before_answer", api_killed, limit_s=45),
    Row("api_dies_after_claim", api_dies_after_claim, limit_s=60),
    Row("scaled_down", scaled_down, limit_s=45, workers=2, worker_env={"FAULT_CALL_S": "0.1"}),
    Row("two_writers", two_writers, limit_s=45, writers=2),
    Row("leader_dies", leader_dies, limit_s=60, writers=2),
    Row("poison_image", poison, limit_s=180),
    Row("detector_hangs", detector_hangs, limit_s=180, settings={"DETECT_TIMEOUT_S": "2"}),
    Row("out_of_device_memory", out_of_memory, limit_s=60, worker_env={"FAULT_FITS": "1", "FAULT_CALL_S": "0.002"}),
    Row("deaf_worker", deaf_worker, limit_s=75),
    Row("fair_share", fair_share, limit_s=45),
)  # fmt: skip

