"""What commands print: results as tables or JSON on standard output, sentences on standard error.

Called by: groundcrew.cli, groundcrew.cli_models. Must not import: backend, worker, rich (a --help stays fast).
Example: `print_found(rows, as_json, print_table)`
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on standard output instead of text")


def print_found(found: Any, as_json: bool, print_table: Callable[[Any], None]) -> None:
    """`found` as JSON, or as print_table shows it."""
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_table(found)


def say_or_json(done: str, as_json: bool) -> None:
    """What was done, as a sentence or as {"done": sentence}."""
    if as_json:
        click.echo(json.dumps({"done": done}, ensure_ascii=False))
    else:
        say(done)


def say(sentence: str) -> None:
    """One sentence to the person at the terminal."""
    click.echo(f"groundcrew: {sentence}", err=True)
