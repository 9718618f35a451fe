"""Each fate of a predict job, on the ladder of worker.tasks. Real Redis, real messages, a hand-written detector."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from contract import delayed
from contract.broker import make_celery, queue_depths
from contract.delayed import Delayed
from contract.errors import OutOfDeviceMemory
from contract.jobs import INTERACTIVE_QUEUE, WRITE_QUEUE, Asked, ExpandJob, NewTask, bulk_queue
from contract.registry import Registry
from contract.results import Results
from contract.settings import read_settings
from contract.status import JobRecords
from groundcrew.child import free_port
from tests.fakes.jobs import VERSION, predict_job
from worker.addresses import Fetcher
from worker.detectors.base import Boxes
from worker.models import Look, Models
from worker.predict import Predictor
from worker.tasks import Crew, expand, predict

CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="red circle"/><Label value="blue square"/></RectangleLabels></View>"""


class FixedDetector:
    """One box in the left half of each image, of the first prompt; refuses batches over its memory."""

    def __init__(self, fits: int = 100) -> None:
        self.fits, self.batches = fits, []

    def detect(self, images, prompts, *, score_threshold, nms_iou, groups=None):
        self.batches.append((len(images), prompts))
        if len(images) > self.fits:
            raise OutOfDeviceMemory
        return [self.found(image) for image in images]

    def found(self, image):
        height, width = image.shape[:2]
        box = np.array([[0, 0, width / 2, height]], dtype=np.float32)
        return Boxes(box, np.array([0.9], dtype=np.float32), np.array([0]))

    def warm_up(self):
        pass


def data_uri():
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url, "BATCH_SIZE": "8", "IMAGE_PRIVATE_HOSTS": "127.0.0.1"})


@pytest.fixture
def detector():
    return FixedDetector()


@pytest.fixture
def crew(settings, client, detector):
    records, registry = JobRecords(client, failed_memory_s=600), Registry(settings)
    models = Models(registry, lambda version: detector, settings)
    predictor = Predictor(records, Fetcher(settings, dict), models, registry, settings.image_limit_px)
    yield Crew(app=make_celery(settings), records=records, results=Results(client), delayed=Delayed(client),
               shards=8, name="worker-1@test", predictor=predictor)  # fmt: skip
    models.batcher.close()


@pytest.fixture
def make_job(crew):
    config_id = crew.records.save_config(CONFIG, {})

    def make(task_id=1, **fields):
        job = predict_job(task_id, **{"config_id": config_id, "image": data_uri()} | fields)
        crew.records.admit([job])
        return job

    return make


def state(crew, job):
    return crew.records.get(job.id)["state"]


def depths(crew, client):
    return {queue: depth for queue, depth in queue_depths(client, crew.shards).items() if depth}


def test_a_bulk_job_ends_as_a_write_back_message(crew, client, make_job):
    job = make_job()
    predict(crew, job)
    assert state(crew, job) == "writing"
    assert depths(crew, client) == {WRITE_QUEUE: 1}


def test_boxes_are_percent_of_the_image_with_the_label_of_their_prompt(crew, make_job):
    job = make_job(delivery="answer")
    predict(crew, job)
    (region,) = crew.results.wait(job, 1).result
    assert (region["original_width"], region["original_height"]) == (40, 20)
    assert [region["value"][name] for name in ("x", "y", "width", "height")] == [0, 0, 50, 100]
    assert region["value"]["rectanglelabels"] == ["red circle"]


def test_a_typed_prompt_replaces_the_labels(crew, detector, make_job):
    asked = Asked(prompts=("green star",), labels=("blue square",))
    job = make_job(delivery="answer", asked=asked)
    predict(crew, job)
    assert crew.results.wait(job, 1).result[0]["value"]["rectanglelabels"] == ["blue square"]
    assert detector.batches[-1] == (1, ("green star",))


def test_an_unreadable_image_fails_alone_with_its_reason(crew, make_job):
    bad, good = make_job(1, image="data:,nonsense"), make_job(2)
    predict(crew, bad)
    predict(crew, good)
    assert crew.records.get(bad.id)["code"] == "image_unreadable"
    assert state(crew, good) == "writing"


def test_an_image_server_that_is_away_is_tried_again_later_and_given_up_in_the_end(crew, client, make_job):
    job = make_job(image=f"http://127.0.0.1:{free_port()}/a.png")
    for attempt in range(1, 5):
        predict(crew, job)
        (job,) = crew.delayed.jobs()
        assert (state(crew, job), job.attempt) == ("queued", attempt)
        client.delete(delayed.KEY)
    predict(crew, job)
    assert state(crew, job) == "failed"
    assert crew.delayed.count() == 0


def test_an_outage_of_label_studio_costs_no_try_however_long_it_lasts(settings, client, crew, make_job):
    # given a Label Studio that holds the image, and is down
    away = settings.model_copy(update={"label_studio_url": f"http://127.0.0.1:{free_port()}"})
    fetcher = Fetcher(away, lambda: {"Authorization": "Bearer token"})
    crew = replace(crew, predictor=replace(crew.predictor, fetcher=fetcher))
    job = make_job(image="/data/upload/1/a.png")

    # when it is asked for many times
    for _ in range(20):
        predict(crew, job)
        assert (state(crew, job), crew.delayed.jobs(), crew.records.dead.count()) == ("queued", [job], 0)
        client.delete(delayed.KEY)

    # then it has all of its tries still; after more than a day they are used
    assert job.attempt == 0
    predict(crew, job.model_copy(update={"enqueued_at_s": job.enqueued_at_s - 25 * 3600}))
    assert [waiting.attempt for waiting in crew.delayed.jobs()] == [1]


def test_a_second_message_of_a_job_that_is_running_is_dropped(crew, detector, make_job):
    job = make_job()
    predict(crew, job)
    predict(crew, job)
    assert len(detector.batches) == 1


def test_a_job_whose_caller_has_gone_is_not_run(crew, detector, make_job):
    job = make_job(delivery="answer", expires_at_s=1.0)
    predict(crew, job)
    assert crew.records.get(job.id)["code"] == "expired"
    assert detector.batches == []


def test_the_job_of_a_deleted_task_is_cancelled(crew, detector, make_job):
    job = make_job()
    crew.records.mark_deleted(1, [1])
    predict(crew, job)
    assert state(crew, job) == "cancelled"
    assert detector.batches == []


def test_a_deleted_task_whose_image_is_gone_is_cancelled_rather_than_failed(crew, make_job):
    job = make_job(image="data:,nonsense")
    crew.records.mark_deleted(1, [1])
    predict(crew, job)
    assert state(crew, job) == "cancelled"


def test_a_bug_fails_the_job_and_wakes_the_waiter(crew, detector, make_job):
    detector.found = lambda image: 1 / 0
    job = make_job(delivery="answer")
    predict(crew, job)
    assert "ZeroDivisionError" in crew.records.get(job.id)["reason"]
    assert crew.results.wait(job, 60) is None


def test_out_of_memory_halves_the_batch_down_to_single_images(crew, detector):
    detector.fits = 1
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    look = Look(crew.predictor.registry.base.ref, ("red circle",), (0,), 0.3)
    outcomes = crew.predictor.models._run(look, [pixels] * 5)
    assert [len(boxes) for boxes in outcomes] == [1] * 5
    detector.fits = 0
    assert isinstance(crew.predictor.models._run(look, [pixels] * 2)[0], OutOfDeviceMemory)


def test_when_the_api_still_waits_the_writer_only_checks_later(crew, client, make_job):
    job = make_job(delivery="claim")
    predict(crew, job)
    assert depths(crew, client) == {}
    (check,) = crew.delayed.jobs()
    assert (check.id, check.verify) == (job.id, True)


def test_when_the_api_gave_up_waiting_the_writer_delivers_at_once(crew, client, make_job):
    job = make_job(delivery="claim")
    crew.results.claim(job, "writer")
    predict(crew, job)
    assert depths(crew, client) == {WRITE_QUEUE: 1}
    assert crew.delayed.count() == 0


def test_expanding_sends_each_task_once_however_often_it_runs(crew, client):
    tasks = tuple(NewTask(task_id=n, image="/a.png") for n in range(1200))
    job = ExpandJob(project_id=1, tasks=tasks, config_id="c", model="tiny-shapes-1", model_version=VERSION)
    crew.delayed.add(job, after_s=60)  # as the API does, in case the message is lost
    expand(crew, job)
    expand(crew, job)
    assert crew.delayed.count() == 0
    assert depths(crew, client) == {bulk_queue(1, 8): 1200}
    assert crew.records.counts(1)["queued"] == 1200


def test_urgent_jobs_have_a_queue_of_their_own(crew, client):
    crew.send(predict_job(1, delivery="answer"), predict_job(2, delivery="claim"), predict_job(3))
    assert depths(crew, client) == {INTERACTIVE_QUEUE: 2, bulk_queue(1, 8): 1}
