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
        self.look_ups: list[int] = []  #: tasks in each question
        self.unknown_tasks: set[int] = set()  #: POSTs that name one are refused as a whole, lists leave it out
        self.slow_tasks: set[int] = set()  #: lists that name one take too long
        self.refuses_lists = False
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

    def versions(self, project_id: int, task_ids: Sequence[int]) -> dict[int, set[str]]:
        self.look_ups.append(len(task_ids))
        if self.down or self.slow_tasks & set(task_ids):
            raise LabelStudioUnreachable("down")
        if self.refuses_lists:
            raise LabelStudioRefused("Label Studio answered 414")
        known: dict[int, set[str]] = {task_id: set() for task_id in task_ids if task_id not in self.unknown_tasks}
        for one in self.stored:
            if one.task_id in known:
                known[one.task_id].add(one.model_version)
        return known

    def holds(self, task_id: int, model_version: str) -> bool:
        self.look_ups.append(1)
        if self.down:
            raise LabelStudioUnreachable("down")
        if task_id in self.unknown_tasks:
            raise LabelStudioRefused("Label Studio answered 400")
        return any(p.task_id == task_id and p.model_version == model_version for p in self.stored)

    def remove(self, task_id: int, model_version: str) -> None:
        if self.refuses_removal:
            raise LabelStudioUnreachable("down")
        self.stored = [p for p in self.stored if (p.task_id, p.model_version) != (task_id, model_version)]

    def tasks(self) -> list[int]:
        return sorted(p.task_id for p in self.stored)
