"""A real writer that is killed right after Label Studio has stored its predictions, before it could note that down.

Called by: tests/services/test_faults_label_studio.py, as `DIE_ONCE=FILE python -m tests.fakes.dying_writer`, in the
environment of `python -m worker write`. FILE is made at the death, so that the next writer lives.
Must not import: torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.jobs import Prediction
from worker import app
from worker.__main__ import main
from worker.labelstudio import LabelStudio


class DyingLabelStudio(LabelStudio):
    """Dies at the first request that stores several predictions."""

    def store(self, project_id: int, predictions: Sequence[Prediction]) -> int:
        created, once = super().store(project_id, predictions), Path(os.environ["DIE_ONCE"])
        if len(predictions) > 1 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return created


if __name__ == "__main__":
    app.LabelStudio = DyingLabelStudio  # type: ignore[misc]
    sys.exit(main(["write"]))
