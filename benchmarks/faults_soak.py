"""Random faults in one crew for a long time, under load: at the end nothing is lost or doubled, and memory is flat.

Called by: groundcrew.bench. Must not import: backend, worker.
Worker 1, writer 1 and, after the first quarter, the API are left alive, so that their memory can be watched.
Example: `soak(20, folder=Path("out"), show=print)` -> {"lost": 0, "duplicated": 0, "failed_rows": 0, ...}
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from benchmarks.faults_site import Site, wait_until

BATCH = 200  #: tasks announced at a time
MOST_OPEN = 1000  #: no new ones while so many are not done
PAUSE_S = (5.0, 15.0)  #: between two faults
TROUBLE_S = 10.0
FINISH_S = 180.0
WATCHED = ("API", "worker 1", "writer 1")
FLAT_MB = 15.0  #: growth from the third quarter to the last; before, heaps grow to what outages ask of them

Fault = Callable[[Site], None]


def _trouble(kind: str) -> Fault:
    def run(site: Site) -> None:
        site.label_studio.trouble = kind
        time.sleep(TROUBLE_S)
        site.label_studio.trouble = ""

    return run


def _label_studio_down(site: Site) -> None:
    site.label_studio.stop_listening()
    time.sleep(TROUBLE_S)
    site.label_studio.listen_again()


def _redis_silent(site: Site) -> None:
    site.pause(site.redis_pid)
    time.sleep(TROUBLE_S)
    site.resume()


def _redis_restarted(site: Site) -> None:
    os.kill(site.redis_pid, signal.SIGTERM)


def _tokens_forgotten(site: Site) -> None:
    site.label_studio.access_lives_s = 3.0


def _api_dies(site: Site) -> None:
    with suppress(requests.RequestException):
        site.predict(range(1, 11), die=True)


FAULTS: Mapping[str, Fault] = {
    "worker killed": lambda site: site.kill("worker 2"),
    "writer killed": lambda site: site.kill("writer 2"),
    "Redis restarted": _redis_restarted,
    "Redis silent": _redis_silent,
    "Label Studio down": _label_studio_down,
    "Label Studio answers 500": _trouble("500"),
    "Label Studio answers 429": _trouble("429"),
    "Label Studio slow": _trouble("slow"),
    "short-lived tokens": _tokens_forgotten,
    "event delivered again": lambda site: _announce(site, range(1, BATCH)),
}


def soak(minutes: int, *, folder: Path, show: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """Break something every few seconds; `show` gets a line for each fault."""
    with Site.start(folder / "soak", workers=2, writers=2) as site:
        version, began_s = site.setup(), time.monotonic()
        end_s = began_s + 60 * minutes
        chance = random.Random(minutes)  # noqa: S311 - the same faults each time
        tasks, faults, memory_mb = 0, 0, []
        while time.monotonic() < end_s:
            tasks = _announce_more(site, tasks, version)
            early = time.monotonic() < began_s + 15 * minutes
            name, run = chance.choice([*FAULTS.items(), *([("API dies", _api_dies)] if early else [])])
            run(site)
            faults += 1
            pause_s = chance.uniform(*PAUSE_S)
            time.sleep(pause_s)
            tasks = _announce_more(site, tasks, version)
            memory_mb.append(_memory_mb(site))
            done = len(site.stored(version))
            show({"minute": round((time.monotonic() - began_s) / 60, 1), "fault": name, "tasks": tasks, "done": done,
                  "doubled": site.doubles(), "rss_mb": memory_mb[-1]})  # fmt: skip
        return {"minutes": minutes, "faults": faults, **_close(site, tasks, version), **_growth(memory_mb)}


def _announce_more(site: Site, tasks: int, version: str) -> int:
    """The next tasks, unless enough wait; returns how many there are now."""
    if tasks - len(site.stored(version)) >= MOST_OPEN or not _announce(site, range(tasks + 1, tasks + BATCH + 1)):
        return tasks
    return tasks + BATCH


def _announce(site: Site, tasks: range) -> bool:
    """False where the API said that it cannot: then these tasks are asked for again later."""
    try:
        return site.announce(tasks).ok
    except requests.RequestException:
        return False


def _close(site: Site, tasks: int, version: str) -> dict[str, object]:
    everything, reason = set(range(1, tasks + 1)), ""
    try:
        site.wait_stored(everything, version, FINISH_S)
        wait_until(site.is_settled, FINISH_S, "everything to settle", site.log_tails)
    except TimeoutError as error:
        reason = str(error)
    lost = len(everything - site.stored(version))
    return {"tasks": tasks, "lost": lost, "duplicated": site.doubles(), **({"reason": reason} if reason else {})}


def _memory_mb(site: Site) -> dict[str, float]:
    found = {}
    for name in WATCHED:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(site.parts[name].child.pid)
            family = [process, *process.children(recursive=True)]
            found[name] = round(sum(one.memory_info().rss for one in family) / 2**20, 1)
    return found


def _growth(memory_mb: list[dict[str, float]]) -> dict[str, object]:
    """From the median of the third quarter to that of the last."""
    quarter = max(len(memory_mb) // 4, 1)
    grown = {}
    for name in WATCHED:
        series = [row[name] for row in memory_mb if name in row]
        early, late = series[2 * quarter : 3 * quarter] or series, series[-quarter:]
        grown[name] = round(statistics.median(late) - statistics.median(early), 1)
    return {"memory_growth_mb": grown, "failed_rows": sum(growth > FLAT_MB for growth in grown.values())}
