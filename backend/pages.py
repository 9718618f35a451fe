"""One plain page for people: is everything there, and what is going on in each project.

Called by: backend.routes. Must not import: Celery, worker.
Example: open http://localhost:9090/ in a browser
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from backend.dispatch import Dispatcher
from backend.models import ModelCards
from backend.watch import Watch
from contract.status import STATES

_PAGE = Markup(
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Groundcrew</title>'
    "<style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}}"
    "table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}}</style>"
    "<h1>Groundcrew</h1><p>Redis is {redis}. Models: {models}.</p>{body}"
    '<p>More: <a href="health">health</a>, <a href="jobs">jobs</a>, <a href="metrics">metrics</a></p></html>'
)


def write_home(watch: Watch, dispatcher: Dispatcher, models: ModelCards) -> str:
    """HTML; every value is escaped. Raises redis.RedisError only if Redis goes away meanwhile."""
    redis_state = str(watch.facts()["redis"])
    body = _tables(watch, dispatcher) if redis_state == "up" else Markup("<p>Start Redis, or check REDIS_URL.</p>")
    return str(_PAGE.format(redis=redis_state, models=", ".join(models.refs()), body=body))


def _tables(watch: Watch, dispatcher: Dispatcher) -> Markup:
    projects = [
        [row.project_id, row.title, row.model_version, *dispatcher.records.counts(row.project_id).values()]
        for row in dispatcher.projects.list()
    ]
    processes = [[process.get("name", ""), process.get("role", "")] for process in watch.processes()]
    return _table(("project", "title", "version", *STATES), projects) + _table(("process", "role"), processes)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    head = _row("th", header)
    return Markup("<table>{}{}</table><br>").format(head, Markup("").join(_row("td", row) for row in rows))


def _row(tag: str, cells: Sequence[object]) -> Markup:
    inner = Markup("").join(Markup(f"<{tag}>{escape(cell)}</{tag}>") for cell in cells)  # noqa: S704 - escaped
    return Markup("<tr>{}</tr>").format(inner)
