"""A fine-tune of a project whose label config asks for tiles: it learns and measures in them, also after kill -9.

Called by: pytest. Must not import: torch.
Example: pytest tests/services/test_finetune_tiles.py
"""

import itertools
import json
import re

import pytest

from contract.finetune import FinetuneRecords
from contract.leases import is_held
from contract.registry import Registry
from contract.settings import read_settings
from contract.tiling import Tiling
from groundcrew.demo.scenes import make_images, make_label_config
from tests.fakes.shape_project import tiny_base
from tests.services.processes import wait_for_end_of
from tests.services.trainers import QUICK, annotate, ask_for, run_trainer
from tests.services.waiting import wait_until
from worker.dataset import Dataset
from worker.replay import open_replay
from worker.stages import work_directory
from worker.tiles import TileLook

ATTRIBUTES = 'tile="300" tile_overlap="0.25"'
TILES = TileLook(Tiling(300, 0.25, True), 0.4)  #: the threshold is that of the tiny model's card


@pytest.fixture
def settings(trainer_variables):
    return read_settings(trainer_variables | {"DEVICE": "cpu"})


@pytest.fixture
def records(client):
    return FinetuneRecords(client)


def label_config(attributes):
    return make_label_config().replace('<RectangleLabels name="label"', f'<RectangleLabels name="label" {attributes}')


def finish(settings, records, job):
    """Ends the job in a trainer that lives; the published version's directory."""
    ended = run_trainer(settings, job)
    assert ended.returncode == 0, ended.stderr
    record = records.get(job.id)
    assert record["state"] == "done", record
    return Registry(settings).fetch(record["version"]).checkpoint.parent


def test_the_label_config_at_the_export_decides_and_a_killed_trainer_changes_nothing(
    settings, client, records, label_studio, make_project
):
    # given a project that predicts in tiles, and a trainer that was killed after it had cut them
    project = make_project(label_config(ATTRIBUTES))
    annotate(label_studio, project, make_images(6, first_seed=990))
    job = ask_for(records, project, **QUICK)
    ended = run_trainer(settings, job, "trainer", "evaluate")
    assert ended.returncode == -9, ended.stderr
    wait_for_end_of(job.id)
    wait_until(lambda: not is_held(client, job.id), "the dead trainer's lease to lapse")
    cut = {path.name for path in (work_directory(settings, job.id) / "tiles").iterdir()}
    # when somebody turns tiles off before the next trainer takes over
    label_studio.set_label_config(project, label_config('tile="0"'))
    version = finish(settings, records, job)
    # then it is the job that began
    dataset, card = Dataset.read(version), json.loads((version / "card.json").read_text())
    assert dataset.tiles == TILES
    plans = [dataset.plan(sample) for sample in dataset.split("train")]
    assert len(cut) == card["counts"]["tiles_train"] == sum(plan.tiles for plan in plans) > len(plans)
    assert (card["counts"]["tile_size_px"], card["counts"]["tile_overlap_percent"]) == (300, 25)
    assert max(image.width_px for image in dataset.images) == 512, "dataset.json is of whole images"
    assert not work_directory(settings, job.id).exists()


def test_whoever_follows_it_sees_how_many_images_are_cut(settings, client, records, label_studio, make_project):
    # given
    project = make_project(label_config(ATTRIBUTES))
    annotate(label_studio, project, make_images(6, first_seed=990))
    job = ask_for(records, project, **QUICK)
    # when
    with client.monitor() as monitor:
        version = finish(settings, records, job)
        client.echo("over")
        commands = itertools.takewhile(lambda one: one != "ECHO over", (row["command"] for row in monitor.listen()))
        told = "\n".join(command for command in commands if command.startswith(f"HSET gc:ft:job:{job.id} "))
    # then
    before, rest = told.split(" stage cut into tiles ")
    cutting, rest = rest.split(" stage train ")
    training, rest = rest.split(" stage evaluate ")
    evaluation, _ = rest.split(" stage publish ")
    dataset, replay = Dataset.read(version), open_replay(tiny_base().checkpoint.parent)
    images, measured = len(dataset.split("train")), 2 * (len(dataset.split("val")) + len(replay.held_out))
    assert read_counts(before)[-1] == (6, 6), "tasks exported"
    assert read_counts(cutting) == [(done, images) for done in range(images + 1)]
    assert read_counts(training) == []
    assert read_counts(evaluation) == [(done, measured) for done in range(measured + 1)], "base and candidate"
    assert not {"stage_done", "stage_total", "eta_s"} & records.get(job.id).keys(), "what a stage counts ends with it"


def read_counts(told):
    return [tuple(map(int, pair)) for pair in re.findall(r" stage_done (\d+) stage_total (\d+)$", told, re.MULTILINE)]


def test_the_settings_decide_where_the_label_config_says_nothing(settings, records, label_studio, make_project):
    project = make_project(label_config(""))
    annotate(label_studio, project, make_images(3, first_seed=995))
    tiled = settings.model_copy(update={"tile_size_px": 300, "tile_overlap": 0.25})

    version = finish(tiled, records, ask_for(records, project, **QUICK))

    assert Dataset.read(version).tiles == TILES


def test_without_tiles_nothing_is_cut_and_nothing_is_said_of_them(settings, records, label_studio, make_project):
    project = make_project(label_config(""))
    annotate(label_studio, project, make_images(3, first_seed=995))

    version = finish(settings, records, ask_for(records, project, **QUICK))

    assert '"tile' not in (version / "card.json").read_text()
    assert '"tile' not in (version / "dataset.json").read_text()
