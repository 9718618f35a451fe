"""`groundcrew bench`: measurements of this checkout, each one line of JSON or a few readable ones.

Called by groundcrew.cli. Must not import at the top: torch, backend, worker, benchmarks (a --help stays fast).
The measuring itself is in benchmarks/ at the root of the repository, which an installed package does not carry.
Example: `groundcrew bench finetune --json`
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import click

from contract.errors import SettingsError
from groundcrew.command_page import Page

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@click.group(cls=Page)
def bench() -> None:
    """Measure this checkout."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads")
def finetune(as_json: bool, threads: int) -> None:
    """Fine-tune the tiny model on three shapes it has never seen; the worst of each figure counts."""
    import torch

    torch.set_num_threads(threads)
    found = load_benchmark("finetune").measure_all(say=lambda text: None if as_json else click.echo(text, err=True))
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:26} {value}" for name, value in found.items()))


@bench.command("finetune-latency")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
def finetune_latency(as_json: bool) -> None:
    """Time typed prompts beside a fine-tune and without one, on this machine, in turns."""
    found = load_benchmark("finetune_latency").measure(say=lambda text: None if as_json else click.echo(text, err=True))
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:26} {value}" for name, value in found.items()))


def load_benchmark(name: str) -> ModuleType:
    """A module of benchmarks/.

    Raises:
        SettingsError: this is no checkout.
    """
    if not (BENCHMARKS / f"{name}.py").is_file():
        raise SettingsError(f"There is no {BENCHMARKS}: benchmarks run in a checkout, not in an install.")
    if str(BENCHMARKS.parent) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS.parent))
    return importlib.import_module(f"benchmarks.{name}")
