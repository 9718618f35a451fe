"""From an annotation event to numbers: /webhook, a message, the comparison, and sums in a real Redis.

Run by: pytest. Must not import: torch. Label Studio is a list of predictions here; the real one is in other files.
Example: pytest tests/services/test_compare.py
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from backend.app import create_app
from contract.agreement import Counts
from contract.agreement_records import AgreementRecords
from contract.errors import LabelStudioRefused, LabelStudioUnreachable
from contract.jobs import EXPAND_QUEUE, CompareJob
from contract.settings import Settings, read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.recorded import recorded
from worker.compare import Comparer, StoredPrediction
from worker.tasks import Crew, compare

TOKEN = {"LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token"}
MODEL = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
CREATED_S = 1795562926.765411  #: the recorded annotation's created_at
V1, V2 = "demo-1.00000000", "demo-p1-1.00000000"


def region(label: str = "traffic_light", x: float = 1, width: float = 3) -> dict[str, Any]:
    value = {"x": x, "y": 2, "width": width, "height": 4, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}


def prediction(number: int, version: str, after_s: float, *result: dict[str, Any]) -> StoredPrediction:
    return StoredPrediction(number, version, CREATED_S + after_s, list(result))


@dataclass
class FakeLabelStudio:
    """Predictions by task; or an error for every question."""

    stored: dict[int, list[StoredPrediction]] = field(default_factory=dict)
    error: Exception | None = None

    def predictions(self, task_id: int) -> list[StoredPrediction]:
        if self.error:
            raise self.error
        return self.stored.get(task_id, [])


@pytest.fixture
def settings(redis_url: str, client: redis.Redis) -> Settings:
    return read_settings({"REDIS_URL": redis_url} | MODEL | TOKEN)


@pytest.fixture
def api(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


@pytest.fixture
def worker(settings: Settings) -> HandWorker:
    return HandWorker(settings)


@pytest.fixture
def records(client: redis.Redis) -> AgreementRecords:
    return AgreementRecords(client)


def tell(api: FlaskClient, name: str, **annotation: Any) -> None:
    body = recorded(name).body
    if annotation:
        body = body | {"annotation": body["annotation"] | annotation}
    assert api.post("/webhook", json=body).status_code == 200


def crew_of(worker: HandWorker, studio: FakeLabelStudio, records: AgreementRecords) -> Crew:
    return replace(worker.crew, comparer=Comparer(studio, records))


def run_all(worker: HandWorker, studio: FakeLabelStudio, records: AgreementRecords) -> None:
    while worker.depths().get(EXPAND_QUEUE):
        compare(crew_of(worker, studio, records), CompareJob.model_validate(worker.take(EXPAND_QUEUE)))


def sums(records: AgreementRecords) -> dict[str, tuple[int, dict[str, Counts]]]:
    return {one.model_version: (one.images, dict(one.by_label)) for one in records.versions(1)}


def test_a_submitted_annotation_is_compared(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    # given a task with a prediction of two boxes, of which the annotator kept one
    studio = FakeLabelStudio({1: [prediction(1, V1, -60, region(), region("car", x=50))]})

    # when
    tell(api, "ml-webhook-annotation-created")
    run_all(worker, studio, records)

    # then
    assert sums(records) == {V1: (1, {"traffic_light": Counts(kept=1), "car": Counts(deleted=1)})}


def test_an_event_that_comes_twice_counts_once(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    studio = FakeLabelStudio({1: [prediction(1, V1, -60, region())]})
    for _ in range(2):
        tell(api, "ml-webhook-annotation-created")
    run_all(worker, studio, records)
    assert sums(records) == {V1: (1, {"traffic_light": Counts(kept=1)})}


def test_an_update_takes_the_place_of_what_was_submitted_first(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    # given / when the update (two boxes) is worked on before the event of its creation (one box)
    studio = FakeLabelStudio({1: [prediction(1, V1, -60, region())]})
    tell(api, "ml-webhook-annotation-updated")
    run_all(worker, studio, records)
    tell(api, "ml-webhook-annotation-created")
    run_all(worker, studio, records)

    # then
    assert sums(records) == {V1: (1, {"traffic_light": Counts(kept=1, added=1)})}


def test_a_deleted_annotation_counts_no_more_even_if_its_comparison_comes_later(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    studio = FakeLabelStudio({1: [prediction(1, V1, -60, region())]})
    tell(api, "ml-webhook-annotation-created")
    tell(api, "webhook-annotations-deleted")
    run_all(worker, studio, records)
    assert sums(records) == {}


def test_the_prediction_is_the_one_that_the_annotator_saw(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    # given an old prediction, a newer one, and one of a model that may have learned from this annotation
    studio = FakeLabelStudio({1: [
        prediction(1, V1, -60, region("car")), prediction(2, V2, -30, region()), prediction(3, "later", 5, region()),
    ]})  # fmt: skip

    # when Label Studio does not say which one it was / then it is the last one before
    tell(api, "ml-webhook-annotation-created")
    run_all(worker, studio, records)
    assert list(sums(records)) == [V2]

    # when it says that the annotator began with the old one / then it is that one
    tell(api, "ml-webhook-annotation-created", parent_prediction=1)
    run_all(worker, studio, records)
    assert list(sums(records)) == [V1]


def test_annotations_made_of_predictions_in_bulk_are_compared_too(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    kept = region("car", x=10, width=30) | {}
    kept["value"] |= {"y": 20, "height": 40}
    studio = FakeLabelStudio({1: [prediction(396, V1, -60, kept)], 2: [prediction(397, V1, -60, kept)]})
    tell(api, "webhook-annotations-created")
    run_all(worker, studio, records)
    assert sums(records) == {V1: (2, {"car": Counts(kept=2)})}


@pytest.mark.parametrize(
    "studio",
    [FakeLabelStudio(), FakeLabelStudio(error=LabelStudioRefused("it does not exist"))],
    ids=["no prediction", "the task is gone"],
)
def test_without_a_prediction_there_is_nothing_to_count(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords, studio: FakeLabelStudio
) -> None:
    tell(api, "ml-webhook-annotation-created")
    run_all(worker, studio, records)
    assert sums(records) == {}


def test_a_skipped_task_is_not_counted(api: FlaskClient, worker: HandWorker, records: AgreementRecords) -> None:
    studio = FakeLabelStudio({2: [prediction(1, V1, -60, region())]})
    tell(api, "webhook-annotation-created-skipped")
    run_all(worker, studio, records)
    assert sums(records) == {}


def test_while_label_studio_is_away_the_comparison_waits(
    api: FlaskClient, worker: HandWorker, records: AgreementRecords
) -> None:
    # given / when
    tell(api, "ml-webhook-annotation-created")
    run_all(worker, FakeLabelStudio(error=LabelStudioUnreachable()), records)

    # then it is tried again later
    (again,) = worker.delayed.jobs()
    assert isinstance(again, CompareJob)
    assert again.attempt == 1
    compare(crew_of(worker, FakeLabelStudio({1: [prediction(1, V1, -60, region())]}), records), again)
    assert sums(records)[V1][0] == 1


def test_without_a_token_nobody_could_fetch_the_predictions(settings: Settings, worker: HandWorker) -> None:
    api = create_app(settings.model_copy(update={"label_studio_url": ""})).test_client()
    tell(api, "ml-webhook-annotation-created")
    assert worker.waiting() == 0


def test_5000_annotations_at_once_are_few_messages(api: FlaskClient, worker: HandWorker) -> None:
    body = recorded("webhook-annotations-created").body
    many = [body["annotation"][0] | {"id": number} for number in range(5000)]
    assert api.post("/webhook", json=body | {"annotation": many}).status_code == 200
    assert worker.depths()[EXPAND_QUEUE] == 50
