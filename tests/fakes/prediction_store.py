"""Label Studio's prediction endpoints as they really behave, in memory. Called by: tests/services/test_writer.py.

Nothing is idempotent; the bulk endpoint refuses all for one bad task id and drops invalid items silently.
"""

from collections.abc import Callable, Sequence

from contract.errors import LabelStudioRefused, LabelStudioUnreachable
from contract.jobs import Prediction


class FakePredictionStore:
    def __init__(self) -> None:
        self.stored: list[Prediction] = []
        self.requests: list[int] = []  #: predictions in each POST
        self.unknown_tasks: set[int] = set()  #: POSTs that name one are refused as a whole
        self.dropped_tasks: set[int] = set()  #: their predictions are dropped silently
        self.on_store: Callable[[], object] = lambda: None  #: what happens elsewhere during the request
        self.down = False
        self.refuses_removal = False
        self.lose_answer = False  #: store, but let the answer get lost once

    def store(self, project_id: int, predictions: Sequence[Prediction]) -> int:
        self.requests.append(len(predictions))
        self.on_store()
        if self.down:
            raise LabelStudioUnreachable("down")
        if self.unknown_tasks & {p.task_id for p in predictions}:
            raise LabelStudioRefused("Label Studio answered 400")
        kept = [p for p in predictions if p.task_id not in self.dropped_tasks]
        self.stored += kept
        if self.lose_answer:
            self.lose_answer = False
            raise LabelStudioUnreachable("the answer was lost")
        return len(kept)

    def holds(self, task_id: int, model_version: str) -> bool:
        if self.down:
            raise LabelStudioUnreachable("down")
        return any(p.task_id == task_id and p.model_version == model_version for p in self.stored)

    def remove(self, task_id: int, model_version: str) -> None:
        if self.refuses_removal:
            raise LabelStudioUnreachable("down")
        self.stored = [p for p in self.stored if (p.task_id, p.model_version) != (task_id, model_version)]

    def tasks(self) -> list[int]:
        return sorted(p.task_id for p in self.stored)
