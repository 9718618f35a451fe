"""`groundcrew bench`: measurements of this checkout, each one line of JSON or a few readable ones.

Called by groundcrew.cli. Must not import at the top: torch, backend, worker, benchmarks (a --help stays fast).
The measuring itself is in benchmarks/ at the root of the repository, which an installed package does not carry.
Example: `groundcrew bench finetune --json`
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import click

from contract.errors import SettingsError

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@click.group()
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


def load_benchmark(name: str) -> ModuleType:
    """A module of benchmarks/.

    Raises:
        SettingsError: this is no checkout.
    """
    path = BENCHMARKS / f"{name}.py"
    if not path.is_file():
        raise SettingsError(f"There is no {path}: benchmarks run in a checkout of the repository, not in an install.")
    spec = importlib.util.spec_from_file_location(f"benchmarks.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
