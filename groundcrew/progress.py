"""Signs of life on standard error for whatever takes longer than a moment; silent where nobody looks.

Called by: commands of groundcrew. Must not import: backend, worker.
Standard output stays free for results, so that `--json` can be piped.
Example: `with waiting("loading the model"): load()`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def stderr_console() -> Console:
    """Where everything but results is printed."""
    return Console(stderr=True, highlight=False)


@contextmanager
def waiting(text: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """A spinner with `text` beside it while the block runs; the yielded function changes the text."""
    console = console or stderr_console()
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as status:
        yield status.update


def bar(console: Console) -> Progress:
    """A progress bar with counts and the time left, gone when done; nothing where no one sees it."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
