"""Projects that cannot be trained, or not well: the real trainer says so in /jobs/<id>, and the current version stays.

Called by: pytest. Must not import: mocks of any kind.
A real Label Studio, the API, `python -m worker train` and a disk that is really full.
Example: pytest tests/services/test_finetune_bad_input.py
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from backend.app import create_app
from contract.broker import connect_redis
from contract.finetune import FinetuneRecords
from contract.registry import Registry
from contract.settings import read_settings, to_environment
from groundcrew.child import Child, bare_environment
from groundcrew.demo.scenes import make_images, make_label_config
from groundcrew.finetune_command import request_finetune
from groundcrew.label_studio.client import ImageFile
from tests.fakes.versions import card
from tests.services.machine import REPOSITORY, absent
from tests.services.trainers import QUICK, annotate, ask_for, run_trainer, submit, upload
from tests.services.waiting import wait_until
from worker.dataset import Dataset, DatasetImage, DatasetInfo
from worker.detectors.configs import read_config
from worker.splits import Split
from worker.training.output import write_config

TINY = REPOSITORY / "groundcrew" / "zoo" / "tiny-shapes"
DATABASE = "/9"  #: of the session's Redis: no other test empties it
BROKEN = [ImageFile(f"broken-{number}.png", b"this is no image") for number in range(3)]
NO_RECTANGLES = """<View><Image name="image" value="$image"/>
<Choices name="kind" toName="image"><Choice value="good"/></Choices></View>"""
ON_SMALL_DISK = """mount -t tmpfs -o size="$2" tmpfs "$1" || exit 99
folder="$1"; shift 2; "$@"; find "$folder" -type f"""


@pytest.fixture(scope="module")
def settings(redis_url, label_studio_server, label_studio_token, tmp_path_factory):
    return read_settings({
        "REDIS_URL": redis_url.removesuffix("/0") + DATABASE, "LABEL_STUDIO_URL": label_studio_server.url,
        "DEVICE": "cpu", "LABEL_STUDIO_API_KEY": label_studio_token,
        "MODEL_DIR": str(tmp_path_factory.mktemp("trainer") / "models"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def trainer(settings, tmp_path_factory):
    """The trainer as `groundcrew up` starts it."""
    environment = bare_environment(to_environment(settings) | {"OMP_NUM_THREADS": "1"})
    log = tmp_path_factory.mktemp("log") / "trainer.log"
    command = [sys.executable, "-m", "worker", "train"]
    trainer = Child.start(command, env=environment, cwd=REPOSITORY, log_path=log)
    yield trainer
    trainer.stop()


@pytest.fixture
def registry(settings):
    return Registry(settings)


@pytest.fixture
def images():
    return make_images(6, first_seed=1990)


@pytest.fixture
def own_version(tmp_path):
    """The tiny model as a fine-tune would have written it: the config of a version is data."""
    folder = shutil.copytree(TINY, tmp_path / "own-version")
    write_config(folder / "config.py", read_config(TINY / "config.py"))
    return folder


@pytest.fixture
def finetune(settings, registry, trainer, own_version):
    """Gives a project a current version of its own and asks for a fine-tune; what /jobs/<id> says, and the version."""

    def run(project, **options):
        before = registry.publish(own_version, card(1, name=f"tiny-shapes-p{project}", project_id=project))
        registry.promote(project, before.ref)
        job_id = request_finetune(settings, project, base="", options=QUICK | options)
        web = create_app(settings).test_client()

        def record():
            return web.get(f"/jobs/{job_id}").json

        wait_until(lambda: record()["state"] not in ("queued", "running"), "the end", trainer.log_tail, deadline_s=600)
        return record(), before.ref

    return run


def pairs_in(images):
    """Colour and shape of everything that is drawn."""
    return sorted({tuple(box.label.split(" ")) for image in images for box in image.boxes})


def check_refused(registry, project, record, current, code, *sentences):
    """It failed, for that reason, and nothing has changed."""
    assert (record["state"], record["code"]) == ("failed", code), record.get("reason")
    for sentence in sentences:
        assert sentence in record["reason"]
    assert registry.current(project).ref == current
    assert [row.ref for row in registry.list(project)] == ["tiny-shapes-1", current]


def test_one_image_is_too_little(finetune, registry, label_studio, make_project, images):
    project = make_project(make_label_config())
    annotate(label_studio, project, images[:1])
    record, current = finetune(project)
    check_refused(registry, project, record, current, "bad_training_data", "at least 2 images", "annotate more")


def test_annotations_without_a_box_teach_nothing(finetune, registry, label_studio, make_project, images):
    project = make_project(make_label_config([("red", "circle")]))
    label_studio.upload_images(project, [image.file for image in images])
    for task in label_studio.image_names(project):
        label_studio.annotate(task, [])
    record, current = finetune(project)
    check_refused(registry, project, record, current, "bad_training_data", "at least 2 images with boxes", "0 can be")


def test_images_that_cannot_be_read_are_told_with_the_reason(finetune, registry, label_studio, make_project, images):
    project = make_project(make_label_config())
    annotate(label_studio, project, images[:1], broken=BROKEN)
    record, current = finetune(project)
    check_refused(registry, project, record, current, "bad_training_data", "1 can be used: annotate more",
                  "3 tasks were left out, 3 of them because: the file of 16 bytes is no image")  # fmt: skip


def test_a_project_without_rectangles_is_told_what_it_needs(finetune, registry, make_project):
    project = make_project(NO_RECTANGLES)
    record, current = finetune(project)
    check_refused(registry, project, record, current, "bad_label_config", "RectangleLabels")


def test_a_base_that_does_not_exist(settings, trainer, registry, make_project):
    project = make_project(make_label_config())
    job_id = request_finetune(settings, project, base="tiny-shapes-99", options=QUICK)
    with connect_redis(settings) as client:
        records = FinetuneRecords(client)
        wait_until(lambda: records.get(job_id)["state"] == "failed", "the failure", trainer.log_tail)
        assert "tiny-shapes-99 is not registered; known: tiny-shapes-1" in records.get(job_id)["reason"]


def test_a_few_unreadable_images_and_a_label_without_boxes_are_counted_and_the_rest_is_trained(
    finetune, registry, label_studio, make_project, images
):  # fmt: skip
    project = make_project(make_label_config([*pairs_in(images), ("red", "kite")]))
    annotate(label_studio, project, images, broken=BROKEN[:2])
    record, _ = finetune(project)
    assert record["state"] == "done", record
    assert "2 of 8 annotated tasks were left out, 2 of them because" in record["warnings"]
    assert 'no box of "red kite": it is not learned' in record["warnings"]
    assert all(warning in record["warnings"] for warning in registry.card(record["version"]).warnings)
    assert registry.card(record["version"]).counts["skipped_tasks"] == 2


def fix_splits(folder: Path, splits: Mapping[int, Split]) -> None:
    """As if the base had been trained with these tasks: none moves, whatever number Label Studio gave it."""
    images = tuple(DatasetImage(task, "", 1, 1, split, ()) for task, split in splits.items())
    Dataset(DatasetInfo(1, "", "", ""), (), images, folder, {}, ()).write(folder)


def test_a_candidate_that_learned_shuffled_labels_is_refused_and_the_current_version_stays(
    finetune, own_version, registry, label_studio, make_project
):  # fmt: skip
    # given a project in which the images to learn from have each label in place of another one
    images = make_images(16, first_seed=2990)
    pairs = pairs_in(images)
    labels = [" ".join(pair) for pair in pairs]
    other = dict(zip(labels, labels[len(labels) // 2 :] + labels[: len(labels) // 2], strict=True))
    project = make_project(make_label_config(pairs))
    tasks = upload(label_studio, project, images)
    measured = {task for task, image in tasks.items() if image in images[::4]}
    fix_splits(own_version, {task: "val" if task in measured else "train" for task in tasks})
    submit(label_studio, tasks, lambda task, label: label if task in measured else other[label])

    # when it learns fast: by a quarter of its mAP it gets worse, where rounding makes no two trainings alike
    record, current = finetune(project, iterations=25, learning_rate=1e-3, replay_part=0.0, average_momentum=0.1)

    # then
    assert (record["state"], record.get("decision")) == ("done", "refused"), record.get("reason")
    assert record["weighted_map"] < record["weighted_map_base"]
    assert "it must rise" in record["reason"]
    assert registry.current(project).ref == current
    assert {row.ref: row.state for row in registry.list(project)}[record["version"]] == "refused"


@pytest.mark.parametrize(
    ("size", "stage", "options"),
    [
        ("16k", "export", {}),  # images
        ("3m", "train", {}),  # weights
        ("26m", "train", {"save_every_s": 0.01}),  # a checkpoint
        ("26m", "publish", {"save_every_s": 3600}),  # the version, beside what training left: no checkpoint
    ],
)
def test_a_full_disk_is_told_in_every_stage_and_leaves_nothing(settings, label_studio, make_project, images, tmp_path,
                                                               size, stage, options):  # fmt: skip
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        absent("a mount namespace (unshare -rm)")
    project = make_project(make_label_config())
    annotate(label_studio, project, images)
    small = settings.model_copy(update={"model_dir": str(tmp_path)})
    with connect_redis(settings) as client:
        records = FinetuneRecords(client)
        job = ask_for(records, project, **QUICK, **options)
        through = ["unshare", "-rm", "sh", "-c", ON_SMALL_DISK, "sh", str(tmp_path), size]
        ended = run_trainer(small, job, through=through)
        record = records.get(job.id)
    assert (record["state"], record.get("stage")) == ("failed", stage), (record, ended.stderr)
    assert "start the training again" in record["reason"] or "free space" in record["reason"]
    assert "card.json" not in ended.stdout
    assert ".work" not in ended.stdout
