"""Ends a trainer that has had nothing to do for a while: an autoscaler starts one when there is a fine-tune again.

Called by: worker.app, for `python -m worker train-until-idle` (deploy/kubernetes, ScaledJob). Must not import: torch.
Example: `leave_when_idle(FinetuneRecords(client), leave, after_s=60)`
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from contract.finetune import FinetuneRecords

log = logging.getLogger(__name__)

IDLE_S = 60.0
LOOK_EVERY_S = 2.0


def leave_when_idle(
    records: FinetuneRecords, leave: Callable[[], None], *, after_s: float = IDLE_S
) -> threading.Thread:
    """Call `leave` once no fine-tune has been queued or running, anywhere, for `after_s` seconds."""
    thread = threading.Thread(target=_watch, args=(records, leave, after_s), name="idle", daemon=True)
    thread.start()
    return thread


def _watch(records: FinetuneRecords, leave: Callable[[], None], after_s: float) -> None:
    pause, busy_s = threading.Event(), time.monotonic()
    while time.monotonic() - busy_s < after_s:
        pause.wait(min(LOOK_EVERY_S, after_s))
        try:
            if records.open_jobs():
                busy_s = time.monotonic()
        except redis.RedisError:  # then nobody knows
            busy_s = time.monotonic()
    log.info("no fine-tune for %g s; this trainer ends", after_s)
    leave()
