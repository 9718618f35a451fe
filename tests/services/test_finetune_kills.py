"""kill -9 of the trainer in each stage: another one goes on, and each fine-tune ends in exactly one version.

Called by: pytest. Must not import: torch.
Example: pytest tests/services/test_finetune_kills.py
"""

import subprocess
import sys

import pytest

from contract.finetune import FinetuneRecords, new_finetune
from contract.leases import is_held
from contract.registry import Registry
from contract.settings import read_settings, to_environment
from groundcrew.child import bare_environment
from groundcrew.demo.scenes import make_images, make_label_config
from tests.services.conftest import REPOSITORY
from tests.services.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

STAGES = ("export", "train", "evaluate", "publish", "promote")


@pytest.fixture
def settings(redis_url, label_studio_server, label_studio_token, tmp_path):
    return read_settings({
        "REDIS_URL": redis_url, "LABEL_STUDIO_URL": label_studio_server.url, "DEVICE": "cpu",
        "LABEL_STUDIO_API_KEY": label_studio_token, "MODEL_DIR": str(tmp_path / "models"),
    })  # fmt: skip


@pytest.fixture
def annotated(label_studio, make_project):
    """A project with a few annotated images."""
    project = make_project(make_label_config())
    images = {image.file.name: image for image in make_images(6, first_seed=990)}
    label_studio.upload_images(project, [image.file for image in images.values()])
    for task, name in label_studio.image_names(project).items():
        label_studio.annotate(task, [as_region(box, images[name].picture.size) for box in images[name].boxes])
    return project


def as_region(box, size_px):
    width_px, height_px = size_px
    left, top, right, bottom = box.xyxy_px
    value = {"x": 100 * left / width_px, "y": 100 * top / height_px, "width": 100 * (right - left) / width_px,
             "height": 100 * (bottom - top) / height_px, "rotation": 0, "rectanglelabels": [box.label]}  # fmt: skip
    return {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": width_px,
            "original_height": height_px, "image_rotation": 0, "value": value}  # fmt: skip


def run_trainer(settings, stage, job_id):
    """A trainer process; it ends by itself, or by kill -9 as it enters `stage`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.dying_trainer", stage, job_id],
        cwd=REPOSITORY, env=bare_environment(to_environment(settings)), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def test_killed_in_every_stage_it_still_ends_in_exactly_one_version(settings, client, annotated):
    records = FinetuneRecords(client)
    job = new_finetune(annotated, "cli", options={"iterations": 2, "least_iterations": 1, "validations": 1})
    records.request(job)
    for stage in STAGES:
        ended = run_trainer(settings, stage, job.id)
        assert ended.returncode == -9, f"not killed in {stage}: {ended.stderr}"
        assert records.get(job.id)["state"] == "running", "nobody has said that it is over"
        wait_until(lambda: not is_held(client, job.id), "the dead trainer's lease to lapse")
    ended = run_trainer(settings, "none", job.id)
    assert ended.returncode == 0, ended.stderr

    record = records.get(job.id)
    assert record["state"] == "done", record
    registry = Registry(settings)
    made = [listed for listed in registry.list(annotated) if listed.card.job_id]
    assert [listed.ref for listed in made] == [record["version"]]
    expected = record["version"] if record["decision"] == "promoted" else registry.base.ref
    assert registry.current(annotated).ref == expected
    assert registry.fetch(record["version"]).checkpoint.exists()
    assert not (settings.local_model_dir / ".work" / job.id).exists()


def test_a_live_lease_keeps_a_second_trainer_away(settings, client, annotated):
    records = FinetuneRecords(client)
    job = new_finetune(annotated, "cli")
    records.request(job)
    client.set(f"gc:lease:{job.id}", "someone else")
    assert run_trainer(settings, "none", job.id).stdout.strip() == "over"
    assert records.get(job.id)["state"] == "queued"


@pytest.mark.parametrize(
    ("base", "annotate", "code", "sentence"),
    [("", False, "bad_training_data", "annot"), ("tiny-shapes-99", True, "unknown_version", "not registered")],
)
def test_bad_input_ends_as_failed_with_a_sentence_and_the_current_version_stays(
    settings, client, label_studio, make_project, annotated, base, annotate, code, sentence
):  # fmt: skip
    project = annotated if annotate else make_project(make_label_config())
    records = FinetuneRecords(client)
    job = new_finetune(project, "cli", base=base)
    records.request(job)
    ended = run_trainer(settings, "none", job.id)
    record = records.get(job.id)
    assert (record["state"], record["code"]) == ("failed", code), ended.stderr
    assert sentence in record["reason"]
    assert Registry(settings).current(project).ref == "tiny-shapes-1"
