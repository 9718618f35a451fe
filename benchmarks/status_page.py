"""Server time of the status page with 10,000 jobs in 50 projects, and how many Redis round trips a page takes.

Called by: people (`python -m benchmarks.status_page`). Must not import: worker, torch.
The promise is 50 ms a page. Time is that of the API alone, in one process and thread, without a browser; the CPU time
of that thread says how much of it is work, where the machine is busy with something else.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import redis
from flask.testing import FlaskClient

from backend.app import create_app
from contract.broker import connect_redis
from contract.settings import read_settings
from groundcrew.embedded_redis import EmbeddedRedis
from tests.fakes.showcase import SHELF, Showcase

JOBS, PROJECTS = 10_000, 50
REPEATS = 100
PAGES = {
    "overview": ("/", {"Accept": "text/html"}),
    "overview, live part": ("/", {"HX-Request": "true"}),
    "project": ("/ui/projects/1", {"Accept": "text/html"}),
    "project, live part": ("/ui/projects/1", {"HX-Request": "true"}),
    "project, last tasks": ("/ui/projects/1?page=100", {"HX-Request": "true"}),
    "models": ("/ui/models", {"Accept": "text/html"}),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.start(Path(folder) / "redis") as server:
        settings = read_settings({"REDIS_URL": server.url, "MODEL_DIR": f"{folder}/models"})
        client = connect_redis(settings)
        showcase = Showcase(settings, client)
        fill(showcase)
        api = create_app(settings).test_client()
        rows = [measure(api, client, name, *page) for name, page in PAGES.items()]
        showcase.close()
    print(json.dumps({"jobs": JOBS, "projects": PROJECTS, "pages": rows}, indent=1))


def fill(showcase: Showcase) -> None:
    """Half of the jobs in one project, the others spread; a tenth of all has failed."""
    showcase.fill()
    showcase.add_project(1, "Busy", SHELF)
    showcase.add_jobs(1, done=2500, running=16, queued=1984, failed=500)
    each = (JOBS - 5000) // (PROJECTS - 1)
    for project_id in range(2, PROJECTS + 1):
        showcase.add_project(project_id, f"Project number {project_id}", SHELF)
        showcase.add_jobs(project_id, done=each // 2, queued=each - each // 2 - each // 10, failed=each // 10)


def measure(api: FlaskClient, client: redis.Redis, name: str, path: str, headers: dict[str, str]) -> dict[str, object]:
    api.get(path, headers=headers)
    before = commands(client)
    times_ms, cpu_ms = [], []
    for _ in range(REPEATS):
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        answer = api.get(path, headers=headers)
        times_ms.append(1000 * (time.perf_counter() - began_s))
        cpu_ms.append(1000 * (time.thread_time() - began_cpu_s))
        assert answer.status_code == 200
    times_ms.sort()
    return {
        "page": name, "median_ms": round(statistics.median(times_ms), 1), "p95_ms": round(times_ms[95], 1),
        "cpu_median_ms": round(statistics.median(cpu_ms), 1),
        "kilobytes": round(len(answer.data) / 1000, 1),
        "redis_commands": round((commands(client) - before) / REPEATS),
    }  # fmt: skip


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


if __name__ == "__main__":
    main()
