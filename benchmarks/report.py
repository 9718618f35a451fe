"""docs/performance.md out of benchmarks/results/*.json and the caveats of benchmarks/README.md: never typed by hand.

Called by: groundcrew.bench (`groundcrew bench report`). Must not import: backend, worker, torch.
Example: `write_report(RESULTS, README, Path("docs/performance.md"))`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Saved = Mapping[str, Any]
CAVEATS = "## Caveats"
HEADER = """# Performance

Made by `groundcrew bench report` from the files in `benchmarks/results/`; do not edit. Each file was written by the
command above its table, with `--save`. What the figures mean, and what they do not, is under Caveats below.
"""


def write_report(results: Path, readme: Path, target: Path) -> int:
    """Write the page and return how many benchmarks are in it."""
    saved = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    caveats = CAVEATS + readme.read_text(encoding="utf-8").partition(CAVEATS)[2]
    parts = [HEADER, *(_section(one) for one in saved), caveats.strip() + "\n"]
    target.write_text("\n".join(parts), encoding="utf-8")
    return len(saved)


def _section(saved: Saved) -> str:
    lines = [f"## {saved['benchmark']}", "", *_origin(saved), ""]
    plain = {name: value for name, value in saved["figures"].items() if not _is_table(value)}
    if plain:
        lines += [*_table([{"figure": name, "value": value} for name, value in plain.items()]), ""]
    for name, value in saved["figures"].items():
        if _is_table(value):
            lines += [f"{name}:", "", *_table(_as_rows(value)), ""]
    return "\n".join(lines)


def _origin(saved: Saved) -> Iterator[str]:
    machine, versions = saved["machine"], saved["versions"]
    if "command" in saved:
        yield f"`{saved['command']}`"
        yield ""
    load = ", ".join(f"{value:.1f}" for value in machine["load_average"])
    yield (f"{saved['date']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
           f"load average {load} when saved.")  # fmt: skip
    yield ", ".join(f"{name} {version}" for name, version in versions.items()) + "."


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _as_rows(value: Any) -> Sequence[Saved]:
    return value if isinstance(value, list) else [{"figure": name, "value": one} for name, one in value.items()]


def _table(rows: Sequence[Saved]) -> Iterator[str]:
    columns = list(rows[0])
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
