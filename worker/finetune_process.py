"""The process that one fine-tune runs in: `python -m worker.finetune_process <job id>`, started by the trainer.

Called by: worker.finetune. Must not import: torch, mmdet before a stage needs them.
Its exit code says whether the job is over; how it ended is in the job's record.
Example: `run_stages(settings, records, job, Tools.open, threading.Event()) == 0`
"""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable

from contract.broker import connect_redis
from contract.errors import GroundcrewError, JobCancelled
from contract.finetune import FinetuneJob, FinetuneRecords
from contract.logs import begin_facts, configure_logs
from contract.settings import Settings, read_settings
from contract.traces import configure_traces
from worker.orphans import end_with_parent
from worker.stages import Stages, Tools, TrainerStopping, work_directory

log = logging.getLogger(__name__)

LEFT_EXIT_CODE = 75  #: EX_TEMPFAIL: the job is not over, another trainer goes on


class DiskFull(GroundcrewError):
    """No space is left where the trainer keeps its files."""

    code = "disk_full"


def run_stages(settings: Settings, records: FinetuneRecords, job: FinetuneJob, open_tools: Callable[[Settings], Tools],
               stopping: threading.Event) -> int:  # fmt: skip
    """Do what is left of a job; its record says how it ended. Returns the process's exit code."""
    try:
        Stages(open_tools(settings), job, stopping).run()
    except TrainerStopping:
        log.info("fine-tune %s is left to another trainer", job.id)
        return LEFT_EXIT_CODE
    except JobCancelled:
        records.cancelled(job.id, "cancelled while it ran")
    except GroundcrewError as error:
        log.warning("fine-tune %s failed: %s: %s", job.id, error.code, error.message)
        records.fail(job.id, error)
    except Exception as error:
        log.exception("fine-tune %s failed in an unexpected way", job.id)
        records.fail(job.id, as_sentence(error, settings))
    shutil.rmtree(work_directory(settings, job.id), ignore_errors=True)
    return 0


def as_sentence(error: Exception, settings: Settings) -> GroundcrewError:
    """What to do about an error that nobody foresaw."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull(
            f"the disk that holds {settings.local_model_dir} is full: free some space, or set MODEL_DIR to a directory "
            "on a larger one, then start the training again"
        )
    if isinstance(error, OSError):
        return GroundcrewError(f"the trainer cannot read or write its files: {error}; check the disk and MODEL_DIR")
    return GroundcrewError(f"unexpected {type(error).__name__}: {error}; the trainer's log has the details")


def main(job_id: str, open_tools: Callable[[Settings], Tools] = Tools.open) -> int:
    """One job in this process, which its trainer started; SIGTERM leaves the job to another trainer."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    end_with_parent()
    settings = read_settings()
    configure_logs(settings, "train")
    configure_traces(settings, "train")
    begin_facts(job=job_id)
    logging.getLogger("httpx").setLevel("WARNING")
    records = FinetuneRecords(connect_redis(settings))
    return run_stages(settings, records, records.stored_job(job_id), open_tools, stopping)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
