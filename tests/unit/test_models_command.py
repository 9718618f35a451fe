"""`groundcrew models` as a person types it, on a registry of small files."""

import json

import pytest
from click.testing import CliRunner

from contract.errors import GroundcrewError
from contract.registry import Registry
from contract.settings import read_settings
from groundcrew.cli import cli
from tests.fakes.versions import card, version_files

METRICS = {
    "base": {"val": {"map": 0.9, "weighted_map": 0.31}},
    "candidate": {
        "val": {"map": 0.91, "weighted_map": 0.62, "ap50": 0.8, "per_class_ap": {"red kite": 0.7}},
        "general": {"map": 0.9, "ap50": 0.95},
    },
}  # fmt: skip


@pytest.fixture
def registry(tmp_path):
    """Version 1 of project 3 was promoted, version 2 refused."""
    made = Registry(read_settings({"MODEL_DIR": str(tmp_path / "models")}))
    made.publish(version_files(tmp_path, "1"), card(1, metrics=METRICS, reason="mAP rose"))
    made.publish(version_files(tmp_path, "2"), card(2, decision="refused", reason="mAP [fell]"))
    made.promote(3, "tiny-shapes-p3-1")
    return made


@pytest.fixture
def models(tmp_path, registry):
    """Runs `groundcrew models ...`; returns what it says. Raises what it raises."""

    def run(*arguments):
        command = ["models", *arguments, "--model-dir", str(tmp_path / "models")]
        return CliRunner(env={"COLUMNS": "160"}).invoke(cli, command, catch_exceptions=False).output

    return run


def test_list_shows_states_gains_and_reasons(models):
    rows = {row["ref"]: row for row in json.loads(models("list", "--json"))}
    assert {ref: row["state"] for ref, row in rows.items()} == {
        "tiny-shapes-1": "base", "tiny-shapes-p3-1": "current", "tiny-shapes-p3-2": "refused"}  # fmt: skip
    table = models("list", "--project", "3")
    assert "0.310 -> 0.620" in table
    assert "mAP [fell]" in table


def test_show_prints_the_card(models):
    shown = json.loads(models("show", "tiny-shapes-p3-1", "--json"))
    assert (shown["metrics"], shown["base"]) == (METRICS, "tiny-shapes-1")
    assert "mAP rose" in models("show", "tiny-shapes-p3-1")
    assert json.loads(models("show", "tiny-shapes-1", "--json"))["score_threshold"] > 0


def test_show_sets_the_measurements_side_by_side(models):
    said = models("show", "tiny-shapes-p3-1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    assert ["weighted mAP on val", "0.310", "0.620"] in rows
    assert ['AP of "red kite" on val', "", "0.700"] in rows
    assert ["AP50 on the base's own held-out images", "", "0.950"] in rows


@pytest.mark.parametrize(
    ("images", "asked", "said"),
    [
        (12, {"confidence": 0.9}, "; each end holds with 90% confidence. The decision rests on few images"),
        (
            3,
            {},
            "too few to say how sure it is. Image by image, weighted mAP changed by +0.100 to +0.400. The decision",
        ),
        (40, {"confidence": 0.9}, "weighted mAP would change by +0.100 to +0.400; each end holds with 90%"),
    ],
)
def test_show_says_on_how_many_images_the_decision_rests(models, registry, tmp_path, images, asked, said):
    # given a version whose rise was measured on so many images
    evidence = {"rise": 0.3, "lowest": 0.1, "highest": 0.4, "images": images, "few_images": images < 20} | asked
    registry.publish(version_files(tmp_path, "3"), card(3, evidence=evidence, verdict="better"))
    # when / then
    shown = models("show", "tiny-shapes-p3-3")
    assert f"Measured on {images} images with boxes" in shown
    assert said in shown
    assert json.loads(models("show", "tiny-shapes-p3-3", "--json"))["evidence"] == evidence


def test_show_says_where_the_pictures_are_and_copies_them(models, tmp_path):
    folder = tmp_path / "models" / "versions" / "tiny-shapes-p3-1"
    assert json.loads(models("show", "tiny-shapes-p3-1", "--json"))["pictures"] == {"loss": str(folder / "loss.png")}
    target = tmp_path / "new" / "pictures"
    shown = json.loads(models("show", "tiny-shapes-p3-1", "--json", "--pictures", str(target)))
    assert shown["pictures"] == {"loss": str(target / "tiny-shapes-p3-1-loss.png")}
    assert (target / "tiny-shapes-p3-1-loss.png").read_text() == "picture"
    assert str(target) in models("show", "tiny-shapes-p3-1", "--pictures", str(target)).replace("\n", "")


def test_a_folder_for_pictures_that_cannot_be_made_is_named(models, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GroundcrewError, match=r"--pictures: .*file.* cannot be written: Not a directory"):
        models("show", "tiny-shapes-p3-1", "--pictures", str(tmp_path / "file" / "below"))


def test_promote_and_rollback(models, registry):
    assert "project 3 now uses tiny-shapes-p3-2" in models("promote", "tiny-shapes-p3-2")
    assert registry.current(3).ref == "tiny-shapes-p3-2"
    assert "project 3 uses tiny-shapes-p3-1 again" in models("rollback", "--project", "3")
    assert registry.current(3).ref == "tiny-shapes-p3-1"
    models("promote", "tiny-shapes-1", "--project", "3")
    assert registry.current(3) == registry.base


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "nothing-1"], "nothing-1 is not registered; known: tiny-shapes-1, tiny-shapes-p3-1"),
        (["promote", "tiny-shapes-1"], "say which with --project"),
        (["promote", "../x", "--project", "3"], "cannot be the name"),
        (["rollback", "--project", "9"], "no earlier version"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(models, arguments, sentence):
    with pytest.raises(GroundcrewError, match=sentence):
        models(*arguments)
