"""Jobs that were stamped with a version before another was promoted: the same task under the current version instead.

Called by: worker.tasks, once it has started a job. Must not import: Celery, Flask, torch.
Messages in a queue cannot be changed, and a job's id holds the version that Label Studio sees. So the worker that takes
a superseded job sends the task anew under its new id, which admit() joins with whoever asked for that one meanwhile.
Example: `if newer := restamp(job, registry, records): ...`
"""

from __future__ import annotations

from collections.abc import Callable

from contract.jobs import PredictJob, job_id, new_run
from contract.labels import read_label_config
from contract.registry import Registry
from contract.results import Results
from contract.stamps import stamp
from contract.status import JobRecords


def restamp(job: PredictJob, registry: Registry, records: JobRecords) -> PredictJob | None:
    """The job under its project's current version; None where its own version is the one to use.

    Superseded is only what was current before: a version that this process has not heard of yet is newer, not older.
    An interactive job keeps its id, since someone waits for exactly that one: run it as returned. All others get the
    id of the new stamp: hand them to send_anew().

    Raises UnknownJob (its label config is gone), RegistryError.
    """
    current = registry.successor(job.project_id, job.model)
    if current is None:
        return None
    xml, prompt_map = records.load_config(job.config_id)
    label_map = read_label_config(xml, prompt_map=prompt_map)
    new_stamp = stamp(current, label_map)
    newer = job.model_copy(update={"model": current.ref, "model_version": new_stamp})
    return newer if job.delivery == "answer" else newer.model_copy(update=_as_new_job(job, new_stamp))


def _as_new_job(job: PredictJob, new_stamp: str) -> dict[str, object]:
    """A fresh run. Whoever waited for the old id is answered [], and the writer delivers, as after any long wait."""
    delivery = "write" if job.delivery == "claim" else job.delivery
    new_id = job_id(job.project_id, job.task_id, new_stamp)
    return {"id": new_id, "run": new_run(), "delivery": delivery, "hurry": job.urgent, "attempt": 0}


def send_anew(old: PredictJob, newer: PredictJob, records: JobRecords, results: Results,
              send: Callable[[PredictJob], None]) -> None:  # fmt: skip
    """Let the newer job, which has an id of its own, take the place of the old one, which the caller has started.

    The newer comes first: a death in between leaves both, and running this again changes nothing.
    """
    for job in records.admit([newer]):  # nothing where it is under way already
        send(job)
    records.cancel(old.id, old.run, old.project_id, f"superseded by {newer.model}; asked again as {newer.id}")
    results.put_failure(old)
