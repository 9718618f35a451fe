"""The status page: overview, projects, models, and their buttons. One short function a page.

Called by: backend.app. Must not import: Celery, worker.
Rendered here, without a build step; a page asks for its live part again every second (htmx), which needs no thread of
the API in between, as server-sent events would. Example: open http://localhost:9090/ in a browser
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import redis
from flask import Blueprint, Response, abort, jsonify, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from backend.dispatch import Dispatcher
from backend.models import ModelCards
from backend.ui import guard
from backend.ui.actions import Actions
from backend.ui.card import compare_metrics, read_evidence, read_facts
from backend.ui.charts import line_of
from backend.ui.snapshot import JOBS_A_PAGE, PICTURES, TOKENS_READ, Overview, Reader, age_s
from backend.ui.words import DEFAULT, LANGUAGES, Words
from backend.watch import Watch
from contract.broker import connect_redis
from contract.errors import BrokerUnavailable, GroundcrewError, UnknownVersion
from contract.settings import Settings

THEMES = ("light", "dark", "auto")
SAID = ("cancelled", "replayed", "promoted", "rolled_back", "started")
REMEMBERED_S = 365 * 24 * 3600  #: language and colours

Answer = BaseResponse | str


class Pages:
    """The parts a page needs, and what each page does with them."""

    def __init__(self, settings: Settings, models: ModelCards, dispatcher: Dispatcher, watch: Watch) -> None:
        self._settings, self._models, self._watch = settings, models, watch
        self._reader = Reader(settings, connect_redis(settings), models.registry)
        self._actions = Actions(dispatcher, models)

    def blueprint(self) -> Blueprint:
        pages = Blueprint(
            "pages", "backend.ui", template_folder="templates", static_folder="static", static_url_path="/ui/static"
        )
        for rule, page in (
            ("/", self.home),
            ("/ui/projects/<int:project_id>", self.project),
            ("/ui/models", self.models),
            ("/ui/models/<ref>", self.model),
            ("/ui/models/<ref>/<name>", self.picture),
        ):
            pages.get(rule)(self._with_problems(page))
        for rule, button in (
            ("/ui/jobs/<job_id>/cancel", self.cancel),
            ("/ui/jobs/<job_id>/replay", self.replay),
            ("/ui/projects/<int:project_id>/promote", self.promote),
            ("/ui/projects/<int:project_id>/rollback", self.rollback),
            ("/ui/projects/<int:project_id>/finetune", self.finetune),
        ):
            pages.post(rule)(self._with_problems(button))
        return pages

    # -- pages -------------------------------------------------------------------------------------------------------

    def home(self) -> Answer:
        """The overview for browsers; for Label Studio, curl and other programs what /health says."""
        if not _wants_html():
            return jsonify({"status": "UP", "model_class": "Groundcrew", **self._watch.facts()})
        try:
            view = self._reader.overview()
        except redis.RedisError:
            return self._show("overview.html", "overview", poll=True, view=None, **_headline(None))
        return self._show("overview.html", "overview", poll=True, view=view, **_headline(view))

    def project(self, project_id: int) -> Answer:
        page = min(max(request.args.get("page", 0, int), 0), 200)
        failed_only = bool(request.args.get("failed"))
        view = self._reader.project(project_id, page=page, failed_only=failed_only)
        known = view.failures if failed_only else view.jobs_known
        return self._show(
            "project.html", "overview", poll=True, view=view, page=page, failed_only=failed_only,
            more=known > (page + 1) * JOBS_A_PAGE, limit_tokens=TOKENS_READ,
            line=line_of([one.total.f1 for one in reversed(view.agreement)]),
        )  # fmt: skip

    def models(self) -> Answer:
        return self._show("models.html", "models", listed=self._reader.models())

    def model(self, ref: str) -> Answer:
        state, card = self._reader.version(ref)
        pictures = [name for name in PICTURES if self._reader.picture(ref, name) is not None]
        return self._show(
            "model.html", "models", card=card, state=state, facts=read_facts(card), metrics=compare_metrics(card),
            evidence=read_evidence(card), pictures=pictures,
        )  # fmt: skip

    def picture(self, ref: str, name: str) -> Answer:
        body = self._reader.picture(ref, name)
        if body is None:
            abort(404)
        return Response(body, content_type="image/png", headers={"X-Content-Type-Options": "nosniff"})

    # -- buttons -----------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> Answer:
        return self._press(partial(self._actions.cancel, job_id), "cancelled", _back(), ask=True)

    def replay(self, job_id: str) -> Answer:
        return self._press(partial(self._actions.replay, job_id), "replayed", _back(), ask=False)

    def promote(self, project_id: int) -> Answer:
        ref = request.form.get("ref", "")
        return self._press(partial(self._actions.promote, project_id, ref), "promoted", _project(project_id), ask=True)

    def rollback(self, project_id: int) -> Answer:
        do = partial(self._actions.rollback, project_id)
        return self._press(do, "rolled_back", _project(project_id), ask=True)

    def finetune(self, project_id: int) -> Answer:
        return self._press(partial(self._actions.finetune, project_id), "started", _project(project_id), ask=True)

    def _press(self, do: Callable[[], None], said: str, back: str, *, ask: bool) -> Answer:
        """Check the form, ask if it matters and nobody has asked yet, act, and show the page again."""
        guard.check_form(request)
        if ask and request.form.get("confirmed") != "yes":
            return self._show("confirm.html", "overview", fields=request.form.to_dict(), back=back)
        do()
        response = redirect(back, code=303)
        response.set_cookie("gc_said", said, max_age=10, httponly=True, samesite="Strict")
        return response

    # -- rendering ---------------------------------------------------------------------------------------------------

    def _with_problems(self, view: Callable[..., Answer]) -> Callable[..., Answer]:
        """Errors of the view as a page; those of backend.auth, before it, stay what programs and browsers expect."""

        @wraps(view)
        def show(**arguments: Any) -> Answer:
            try:
                return view(**arguments)
            except (GroundcrewError, redis.RedisError) as error:
                known = error if isinstance(error, GroundcrewError) else BrokerUnavailable()
                status = 404 if isinstance(error, UnknownVersion) else known.http_status
                return self._show("problem.html", "overview", status=status, error=known)

        return show

    def _show(
        self, template: str, section: str, *, poll: bool = False, status: int = 200, **values: object
    ) -> Response:
        words, theme = Words(_choose("lang", LANGUAGES, _accepted())), _choose("theme", THEMES, "auto")
        token, said = guard.token_of(request), request.cookies.get("gc_said")
        partial_page = "HX-Request" in request.headers
        body = render_template(
            template, t=words, theme=theme, languages=LANGUAGES, section=section, poll=poll, csrf=token,
            partial=partial_page, here=_here(), change=_change, age_s=age_s, queue_name=partial(_queue_name, words),
            said=said if said in SAID else None, label_studio_url=self._settings.label_studio_url,
            **_translated(values, words),
        )  # fmt: skip
        response = make_response(body, status)
        response.headers.update(guard.HEADERS)
        response.headers["Vary"] = "Accept, Accept-Language, Cookie, HX-Request"
        if not partial_page:
            _remember(response, words.language, theme, token)
        return response


def _wants_html() -> bool:
    """A browser names text/html and htmx itself; Label Studio and curl send */*."""
    return "text/html" in request.headers.get("Accept", "") or "HX-Request" in request.headers


def _headline(view: Overview | None) -> dict[str, Any]:
    """What the first line says, and in which mood."""
    if view is None:
        return {"mood": "trouble", "headline": ("hero_redis", 0)}
    if not view.workers:
        return {"mood": "warning", "headline": ("hero_no_worker", 0)}
    if view.open_count:
        return {"mood": "", "headline": ("hero_one" if view.open_count == 1 else "hero_open", view.open_count)}
    training = any(row["state"] == "running" for row in view.finetunes)
    return {"mood": "", "headline": ("hero_training" if training else "hero_idle", 0)}


def _translated(values: dict[str, object], words: Words) -> dict[str, object]:
    headline = values.pop("headline", None)
    if isinstance(headline, tuple):
        values["sentence"] = words(headline[0], n=words.number(headline[1]))
    return values


def _queue_name(words: Words, name: str) -> str:
    kind = name.removeprefix("predict.").partition(".")[0]
    return words.maybe(f"queue_{kind}", name)


def _accepted() -> str:
    return request.accept_languages.best_match(list(LANGUAGES), DEFAULT) or DEFAULT


def _choose(name: str, known: object, otherwise: str) -> str:
    """From the address, else what this browser chose before."""
    for value in (request.args.get(name), request.cookies.get(f"gc_{name}")):
        if value is not None and value in known:  # type: ignore[operator]  # a dict or a tuple
            return value
    return otherwise


def _remember(response: Response, language: str, theme: str, token: str) -> None:
    guard.set_token(response, token, secure=request.is_secure)
    for name, value in (("lang", language), ("theme", theme)):
        if name in request.args:
            response.set_cookie(f"gc_{name}", value, max_age=REMEMBERED_S, samesite="Lax")
    if "gc_said" in request.cookies:
        response.delete_cookie("gc_said")


def _change(**changes: object) -> str:
    """This page's address with other arguments; None takes one away."""
    assert request.endpoint is not None
    kept = {**request.args.to_dict(), **changes}
    arguments: dict[str, Any] = {
        name: kept[name] for name in KEPT_ARGUMENTS if kept.get(name) is not None
    }
    if request.method == "POST":
        return url_for("pages.home", **arguments)
    return url_for(request.endpoint, **(request.view_args or {}), **arguments)


KEPT_ARGUMENTS = ("page", "failed", "lang", "theme")


def _here() -> str:
    return _change(lang=None, theme=None)


def _back() -> str:
    """Where the form says it came from: a path of ours, never another site."""
    back = request.form.get("back", "")
    return back if back == "/" or back.startswith("/ui/") else url_for("pages.home")


def _project(project_id: int) -> str:
    return url_for("pages.project", project_id=project_id)
