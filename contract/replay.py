"""What failed comes back to life: the same work as a fresh job; its dead letter is gone once it is sent.

Called by: groundcrew.dead_letters, backend.dispatch. Must not import: Flask.
Example: `replay(letter, JobRecords(client, failed_memory_s=0), send)`
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError

from contract.dead_letters import DeadLetter
from contract.delayed import load_message
from contract.envelopes import message_id
from contract.errors import BadMessage, UnknownJob
from contract.jobs import Job, PredictJob, WriteBackJob, new_run
from contract.status import JobRecords


def replay(letter: DeadLetter, records: JobRecords, send: Callable[[Job], None]) -> bool:
    """Send its work again; False where the same work is under way already. `records` must not remember failures.

    Raises BadMessage where this release does not understand the letter, BrokerUnavailable.
    """
    job = _read(letter)
    if isinstance(job, PredictJob):
        sent = _predict_again(job, records, send)
    else:
        sent = True
        send(_write_again(job, records) if isinstance(job, WriteBackJob) else job)
    records.dead.drop([letter.id])
    return sent


def replay_job(job_id: str, records: JobRecords, send: Callable[[Job], None]) -> None:
    """The page's "Try again": from its boxes where only storing them failed, else from its image.

    Raises UnknownJob, also where nobody waits for the answer any more; BrokerUnavailable.
    """
    job = records.stored_job(job_id)
    if job.delivery == "answer":
        raise UnknownJob("nobody waits for this typed prompt any more; type it again in the editor")
    with suppress(UnknownJob):
        replay(records.dead.get(f"w.{message_id(job)}"), records, send)
        return
    delivery = "write" if job.delivery == "claim" else job.delivery
    records.dead.drop([message_id(job)])
    _predict_again(job.model_copy(update={"delivery": delivery, "hurry": False}), records, send)


def _read(letter: DeadLetter) -> Job:
    try:
        return load_message(letter.message)
    except (KeyError, ValueError, ValidationError):
        raise BadMessage(f"this release cannot run it ({letter.reason}); update Groundcrew, or drop it") from None


def _predict_again(job: PredictJob, records: JobRecords, send: Callable[[Job], None]) -> bool:
    fresh = job.model_copy(update={"run": new_run(), "attempt": 0, "expires_at_s": None})
    admitted = records.admit([fresh])
    for one in admitted:
        send(one)
    return bool(admitted)


def _write_again(job: WriteBackJob, records: JobRecords) -> WriteBackJob:
    """Its record is open again; Label Studio is asked first, since an earlier try may have got through."""
    with suppress(UnknownJob):  # its record has expired: there is nothing to show, but there are boxes to store
        records.admit([records.stored_job(job.id)])
    return job.model_copy(update={"attempt": 0, "verify": True})
