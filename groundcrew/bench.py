"""`groundcrew bench`: measurements of this checkout, each one line of JSON or a few readable ones.

Called by groundcrew.cli. Must not import at the top: torch, backend, worker, benchmarks (a --help stays fast).
The measuring itself is in benchmarks/ at the root of the repository, which an installed package does not carry.
Example: `groundcrew bench finetune --json`
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from contract.errors import SettingsError
from groundcrew.command_page import Page

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
_save_option = click.option("--save", is_flag=True, help="Keep the figures in benchmarks/results/ for `bench report`")


@click.group(cls=Page)
def bench() -> None:
    """Measure this checkout."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads")
@_save_option
def finetune(as_json: bool, threads: int, save: bool) -> None:
    """Fine-tune the tiny model on three shapes it has never seen; the worst of each figure counts."""
    import torch

    torch.set_num_threads(threads)
    found = load_benchmark("finetune").measure_all(say=_sayer(as_json))
    if save:
        _save("finetune", found, "groundcrew bench finetune --save")
    _show(found, as_json)


@bench.command("finetune-latency")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
def finetune_latency(as_json: bool) -> None:
    """Time typed prompts beside a fine-tune and without one, on this machine, in turns."""
    _show(load_benchmark("finetune_latency").measure(say=_sayer(as_json)), as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--config", default="swin-t", show_default=True, help="tiny, swin-t, swin-l, or what CONFIG_FILE may be")
@click.option("--size", default="800x1066", show_default=True, help="Height and width of the image")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Images each; medians count")
@click.option("--labels", type=click.IntRange(0), default=0, help="Also time this many names at once")
@click.option("--rivals", default="transformers-fp32,transformers-bf16", help="Beside mmdet; empty for none")
@_save_option
def detector(
    as_json: bool, config: str, size: str, device: str, threads: int, rounds: int, labels: int, rivals: str, save: bool
) -> None:
    """Time one image: ours against mmdet's DetInferencer and transformers, turn by turn."""
    height, _, width = size.partition("x")
    found = load_benchmark("detector").measure(
        config,
        (int(height), int(width)),
        device=device,
        threads=threads,
        rounds=rounds,
        labels=labels,
        rivals=[kind for kind in rivals.split(",") if kind],
        say=_sayer(as_json),
    )
    _show_with_machine(found, as_json)
    if save:
        asked = f"--config {config} --device {device}" + (f" --labels {labels}" if labels else "")
        _save(f"detector-{config}-{device}", found, f"groundcrew bench detector {asked} --save")


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--scenes", type=click.IntRange(1), default=500, show_default=True, help="Pictures")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads")
@_save_option
def accuracy(as_json: bool, scenes: int, threads: int, save: bool) -> None:
    """Average precision of the fast path and of mmdet in 32 bits, with the tiny model on fresh scenes."""
    found = load_benchmark("accuracy").measure_all(scenes, threads, _sayer(as_json))
    _show_with_machine(found, as_json)
    if save:
        _save("accuracy", found, "groundcrew bench accuracy --save")


def _show_with_machine(found: Mapping[str, object], as_json: bool) -> None:
    """As JSON, figures come with the machine they were measured on."""
    _show({**found, **load_benchmark("machine").describe_machine()} if as_json else found, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a row, and a last one with the sums")
@click.option("--rows", "names", default="", metavar="NAME,...", help="Only these rows  [default: all]")
@click.option("--tasks", type=click.IntRange(100), default=1000, show_default=True, help="Tasks a row")
@click.option("--soak", "soak_min", type=click.IntRange(1), metavar="MINUTES",
              help="Random faults in one crew for so long, in place of the rows")
@click.option("--out", "out_dir", type=click.Path(path_type=Path), help="Keep logs there, not in a temporary folder")
def faults(as_json: bool, names: str, tasks: int, soak_min: int | None, out_dir: Path | None) -> None:
    """Break a real crew in every way of the table: nothing may be lost, nothing stored twice. Takes 25 minutes."""
    folder = out_dir or Path(tempfile.mkdtemp(prefix="groundcrew-faults-"))
    if soak_min is not None:
        sums = load_benchmark("faults_soak").soak(soak_min, folder=folder, show=lambda row: click.echo(json.dumps(row)))
    else:
        table = load_benchmark("faults")
        show = _as_json if as_json else _as_text
        sums = table.run_table(table.find_rows(names), tasks=tasks, folder=folder, show=show)
    click.echo(json.dumps(sums))
    if sums["lost"] or sums["duplicated"] or sums["failed_rows"]:
        raise SystemExit(1)


def _as_json(result: Any) -> None:
    click.echo(json.dumps(result.to_json()))


def _as_text(result: Any) -> None:
    figures = f"{result.tasks} tasks, {result.lost} lost, {result.duplicated} doubled"
    times = f"{result.seconds:5.1f} s, recovered in {result.recovery_s:5.1f} s"
    click.echo(f"{'ok  ' if result.ok else 'FAIL'} {result.name:34} {figures}, {times} {result.reason}")


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--part", type=click.Choice(["scale", "latency", "webhooks", "write", "cost"]), multiple=True,
              help="Only this; may be repeated  [default: all, about ten minutes]")
@click.option("--size", type=click.FloatRange(0.001, 1), default=1.0, help="Share of the tasks, for a quick look")
@_save_option
def queue(as_json: bool, part: tuple[str, ...], size: float, save: bool) -> None:
    """What the queue costs, with a detector that sleeps like a GPU: scale, latency, memory, write-back."""
    _clean_up_when_terminated()
    measure = load_benchmark("queue")
    for name in part or measure.PARTS:
        with tempfile.TemporaryDirectory(prefix="groundcrew-bench-") as folder:
            found = measure.measure_part(name, Path(folder), size=size, say=_sayer(as_json))
        _show({"part": name, **found}, as_json)
        if save:
            _save(f"queue-{name}", found, f"groundcrew bench queue --part {name} --save")


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON only")
@click.option("--detector", type=click.Choice(["sleeping", "tiny"]), default="sleeping", show_default=True)
@click.option("--tasks", type=click.IntRange(1), default=2000, show_default=True, help="Of the project; ours")
@click.option("--baseline-tasks", type=click.IntRange(1), default=200, show_default=True, help="Measured, then scaled")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each; medians count")
@_save_option
def pipeline(as_json: bool, detector: str, tasks: int, baseline_tasks: int, rounds: int, save: bool) -> None:
    """A real Label Studio, "retrieve" to all stored: ours and a synchronous backend, turn by turn."""
    _clean_up_when_terminated()
    with tempfile.TemporaryDirectory(prefix="groundcrew-bench-") as folder:
        found = load_benchmark("pipeline").measure_pipeline(
            Path(folder), detector=detector, tasks=tasks, baseline_tasks=baseline_tasks, rounds=rounds,
            say=_sayer(as_json),
        )  # fmt: skip
    _show(found, as_json)
    if save:
        _save(f"pipeline-{detector}", found, f"groundcrew bench pipeline --detector {detector} --save")


@bench.command()
def report() -> None:
    """Write docs/performance.md out of benchmarks/results/."""
    machine = load_benchmark("machine")
    target = BENCHMARKS.parent / "docs" / "performance.md"
    count = load_benchmark("report").write_report(machine.RESULTS, BENCHMARKS / "README.md", target)
    click.echo(f"groundcrew: {target.name} shows {count} benchmarks", err=True)


def _clean_up_when_terminated() -> None:
    """SIGTERM ends the processes that a benchmark has started, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _sayer(as_json: bool) -> Callable[[str], None]:
    return lambda text: None if as_json else click.echo(text, err=True)


def _show(found: Mapping[str, object], as_json: bool) -> None:
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name:32} {value}" for name, value in found.items()))


def _save(name: str, found: Mapping[str, object], command: str) -> None:
    load_benchmark("machine").save_figures(name, found, more={"command": command})


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
