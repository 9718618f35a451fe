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
        self.stuck: set[int] = set()  #: ids that cannot be deleted now
        self.on_delete: Callable[[], object] = lambda: None
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

    def versions(self, project_id: int, task_ids: Sequence[int]) -> dict[int, dict[str, list[int]]]:
        self.look_ups.append(len(task_ids))
        if self.down or self.slow_tasks & set(task_ids):
            raise LabelStudioUnreachable("down")
        if self.refuses_lists:
            raise LabelStudioRefused("Label Studio answered 414")
        return {task_id: self._held(task_id) for task_id in task_ids if task_id not in self.unknown_tasks}

    def versions_of(self, task_id: int) -> dict[str, list[int]]:
        self.look_ups.append(1)
        if self.down:
            raise LabelStudioUnreachable("down")
        if task_id in self.unknown_tasks:
            raise LabelStudioRefused("Label Studio answered 400")
        return self._held(task_id)

    def _held(self, task_id: int) -> dict[str, list[int]]:
        """By version the ids, which are those of the objects."""
        held: dict[str, list[int]] = {}
        for one in self.stored:
            if one.task_id == task_id:
                held.setdefault(one.model_version, []).append(id(one))
        return held

    def delete(self, prediction_ids: Sequence[int]) -> None:
        self.on_delete()
        if self.refuses_removal or self.stuck & set(prediction_ids):
            raise LabelStudioUnreachable("down")
        self.stored = [p for p in self.stored if id(p) not in prediction_ids]

    def tasks(self) -> list[int]:
        return sorted(p.task_id for p in self.stored)
