"""Annotations beside the predictions that their annotators saw: what the status page shows as agreement.

Called by: worker.tasks, in the writer process. Must not import: Celery, torch.
Label Studio is asked for the predictions, since it alone knows which one an annotator had on the screen.
Example: `Comparer(label_studio, AgreementRecords(client)).compare(job)`
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from contract.agreement import compare, read_boxes
from contract.agreement_records import AgreementRecords, Compared
from contract.errors import LabelStudioRefused
from contract.jobs import CompareJob, Submitted

log = logging.getLogger(__name__)


class StoredPrediction(NamedTuple):
    """One prediction as Label Studio holds it."""

    id: int
    model_version: str
    created_s: float  #: Unix time
    result: list[object]


class PredictionSource(Protocol):
    """What comparing needs of Label Studio; worker.labelstudio.LabelStudio is the real one."""

    def predictions(self, task_id: int) -> list[StoredPrediction]: ...


@dataclass(frozen=True)
class Comparer:
    """Compare jobs in, agreement records out."""

    source: PredictionSource
    records: AgreementRecords

    def compare(self, job: CompareJob) -> None:
        """Running it twice changes nothing. Raises LabelStudioUnreachable: nothing is recorded then."""
        compared = [self._compare_one(submitted) for submitted in job.submitted]
        self.records.put(job.project_id, compared, now_s=time.time())

    def _compare_one(self, submitted: Submitted) -> Compared:
        prediction = None if submitted.skipped else self._seen(submitted)
        nothing = Compared(submitted.annotation_id, submitted.task_id, submitted.updated_s)
        if prediction is None:
            return nothing
        by_label = compare(read_boxes(prediction.result), submitted.boxes)
        return Compared(
            submitted.annotation_id, submitted.task_id, submitted.updated_s, prediction.model_version, by_label
        )

    def _seen(self, submitted: Submitted) -> StoredPrediction | None:
        """The prediction that the annotator began with, else the last one stored before the annotation was.

        Never a later one: its model may have been trained on this very annotation.
        """
        try:
            stored = self.source.predictions(submitted.task_id)
        except LabelStudioRefused as error:
            log.info("annotation %d is not compared: %s", submitted.annotation_id, error.message)
            return None
        parent = [one for one in stored if one.id == submitted.parent_prediction]
        before = [one for one in stored if one.created_s <= submitted.created_s]
        return parent[0] if parent else max(before, key=lambda one: one.created_s, default=None)
