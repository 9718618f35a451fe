"""Outgoing webhooks: one JSON event a POST to NOTIFY_URL, signed, tried again for a day, and in nobody's way.

Called by: worker.app, worker.tasks (deliver), worker.notices (which finds what to tell). Must not import: torch, Flask.
Signed as the Standard Webhooks specification says (standardwebhooks.com): any of its libraries verifies it, and an
event keeps its webhook-id through all tries. Example: `Postman(settings, delayed).deliver(job)`
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import random
import threading
import time

import httpx

from contract.delayed import Delayed
from contract.jobs import NotifyJob
from contract.meters import NOTIFIED
from contract.settings import Settings
from worker.connections import limit_look_ups

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
PAUSES_S = (5, 60, 300, 1800, 7200, 18000, 36000)  #: before each further try; 18 hours in all
MOST_AT_ONCE = 4  #: a receiver that hangs holds so many of the writer's threads, no more
BUSY_AGAIN_S = 10.0
GONE = 410  #: the receiver wants no more of this


class Postman:
    """Delivers events. Safe between threads."""

    def __init__(self, settings: Settings, delayed: Delayed) -> None:
        self._url, self._secret = settings.notify_url, settings.notify_secret.get_secret_value()
        self._delayed = delayed
        self._seats = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._http = limit_look_ups(httpx.Client(timeout=TIMEOUT_S, follow_redirects=False))

    def deliver(self, job: NotifyJob) -> None:
        """One try. What fails waits in the delayed set for the next one. Raises redis.RedisError."""
        if not self._url:  # it was taken away meanwhile
            return
        if not self._seats.acquire(blocking=False):
            self._delayed.add(job, after_s=BUSY_AGAIN_S)
            return
        try:
            outcome = self._post(job)
        finally:
            self._seats.release()
        self._settle(job, outcome)

    def _post(self, job: NotifyJob) -> str | int:
        """The status, or the kind of error."""
        body, sent_at_s = job.body.encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "groundcrew",
            "webhook-id": job.id,
            "webhook-timestamp": str(sent_at_s),
            "webhook-signature": sign(self._secret, job.id, sent_at_s, body),
        }
        try:
            with self._http.stream("POST", self._url, content=body, headers=headers) as answer:  # its body is not read
                return answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__

    def _settle(self, job: NotifyJob, outcome: str | int) -> None:
        if isinstance(outcome, int) and 200 <= outcome < 300:
            NOTIFIED.add(result="delivered")
            log.info("%s is delivered", job.type)
        elif outcome == GONE or job.attempt >= len(PAUSES_S):
            NOTIFIED.add(result="given_up")
            log.warning("%s is given up after %d tries: NOTIFY_URL answered %s", job.type, job.attempt + 1, outcome)
        else:
            NOTIFIED.add(result="retried")
            pause_s = PAUSES_S[job.attempt] * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            log.info("%s is tried again in %.0f s: NOTIFY_URL answered %s", job.type, pause_s, outcome)
            self._delayed.add(job.model_copy(update={"attempt": job.attempt + 1}), after_s=pause_s)


def sign(secret: str, message_id: str, sent_at_s: int, body: bytes) -> str:
    """The webhook-signature header: HMAC-SHA256 over `id.timestamp.body`. `secret` is whsec_<base64>."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{sent_at_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
