"""Our own processes: workers, writer, API. And do they see the same settings as this terminal?

Called by: groundcrew.doctor. Must not import: backend, worker.
Example: `check_crew(patient).message == "alive: worker-7@host (tiny-shapes-1 on cpu), writer-8@host"`
"""

from __future__ import annotations

from collections.abc import Mapping

import requests

from contract.errors import GroundcrewError
from contract.heartbeats import alive
from contract.registry import Registry
from groundcrew.checks.check import Check, ok, problem, skipped, warning
from groundcrew.checks.patient import Patient

TIMEOUT_S = 5.0
START = "Start `groundcrew up`."

Process = Mapping[str, object]


def check_crew(patient: Patient) -> Check:
    """Is there a worker that predicts, and a writer that stores?"""
    if patient.redis is None:
        return skipped("crew", "needs Redis")
    processes = alive(patient.redis)
    roles = {process["role"] for process in processes}
    missing = [word for role, word in (("predict", "worker"), ("write", "writer")) if role not in roles]
    if missing:
        lacks = {"worker": "waiting jobs stay where they are", "writer": "found boxes do not reach Label Studio"}
        what = "; ".join(f"no {word} is alive: {lacks[word]}" for word in missing)
        return problem("crew", what, START + " Or `python -m worker predict` and `python -m worker write`, one by one.")
    shown = f"alive: {', '.join(map(_describe, processes))}"
    stranger = _stranger(patient, processes)
    if stranger:
        return warning("crew", f"{shown}; {stranger}", "Give doctor the variables or flags that `groundcrew up` got.")
    return ok("crew", shown)


def _describe(process: Process) -> str:
    if process["role"] == "predict":
        return f"{process['name']} ({process['model']} on {process['device']})"
    return str(process["name"])


def _stranger(patient: Patient, processes: list[Process]) -> str:
    """How the crew's settings differ from those here: then we examine another system than the one that runs."""
    url = patient.settings.label_studio_url
    others = {str(p.get("label_studio", "")) for p in processes if p["role"] == "write"} - {url}
    if others:
        return f"the writer's Label Studio is {_or_none(others.pop())}, here it is {_or_none(url)}"
    try:
        known = {version.ref for version in Registry(patient.settings).list()}
    except GroundcrewError:  # its own check tells
        return ""
    models = {str(p["model"]) for p in processes if p["role"] == "predict"} - known
    return f"the worker's model is {models.pop()}, here it is {', '.join(sorted(known))}" if models else ""


def _or_none(url: str) -> str:
    return url or "not set"


def check_api(patient: Patient) -> Check:
    """Does the address that Label Studio calls answer, and is it us?"""
    url = patient.api_url
    try:
        answer = requests.get(f"{url}/health", timeout=TIMEOUT_S)
        facts = answer.json()
    except requests.JSONDecodeError:
        facts = {}
    except requests.RequestException as error:
        return problem("api", f"nothing answers at {url}/health ({type(error).__name__})", START)
    if not isinstance(facts, dict) or facts.get("model_class") != "Groundcrew":
        return problem("api", f"another program answers at {url}", "Choose another port: `groundcrew up --port N`.")
    if facts.get("redis") != "up":
        return problem("api", f"the API at {url} does not reach Redis", "Give API and workers the same REDIS_URL.")
    return ok("api", f"answers at {url}, {facts.get('open_jobs', 0)} jobs are open")
