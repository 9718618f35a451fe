"""Which version is current: pointers, promotion, rollback, names, states, and cards that are damaged."""

import json
from pathlib import Path

import pytest

from contract.cards import Pointer
from contract.errors import RegistryError, UnknownVersion
from contract.registry import Registry, read_version
from contract.settings import read_settings
from tests.fakes.versions import card, version_files

BASE = "tiny-shapes-1"


@pytest.fixture
def settings(tmp_path):
    return read_settings({"MODEL_DIR": str(tmp_path / "models")})


@pytest.fixture
def registry(settings):
    return Registry(settings)


@pytest.fixture
def publish(registry, tmp_path):
    """Publishes fine-tune number N of project 3."""
    return lambda number, **fields: registry.publish(version_files(tmp_path, str(number)), card(number, **fields)).ref


def states(registry, project_id=None):
    return {row.ref: row.state for row in registry.list(project_id)}


def test_without_any_version_every_project_has_the_base(registry):
    assert registry.current(1) == registry.base == registry.get(BASE) == registry.fetch(BASE)
    assert states(registry) == {BASE: "base"}
    assert states(registry, 1) == {BASE: "current"}


def test_a_published_version_is_current_only_once_it_is_promoted_and_for_its_project_only(registry, settings, publish):
    # given a version / when
    ref = publish(1, score_threshold=0.4, nms_iou=None)
    assert states(registry, 3) == {BASE: "current", ref: "candidate"}
    registry.promote(3, ref)

    # then every process sees it at once
    for process in (registry, Registry(settings)):
        assert (process.current(3).ref, process.current(4).ref) == (ref, BASE)
    assert (registry.current(3).score_threshold, registry.current(3).nms_iou) == (0.4, None)
    assert states(registry, 3) == {BASE: "retired", ref: "current"}
    assert states(registry, 4) == {BASE: "current"}
    assert states(registry) == {BASE: "base", ref: "current"}


def test_thresholds_of_the_settings_win_over_the_card(settings, publish):
    ref = publish(1, score_threshold=0.4)
    assert Registry(settings.model_copy(update={"score_threshold": 0.5})).get(ref).score_threshold == 0.5


def test_rollback_goes_back_step_by_step_and_a_rolled_back_version_may_return(registry, publish):
    # given three promotions
    first, second = publish(1), publish(2)
    registry.promote(3, first)
    registry.promote(3, second)

    # when / then
    assert registry.rollback(3) == first == registry.current(3).ref
    assert states(registry, 3)[second] == "retired"
    assert registry.rollback(3) == BASE == registry.current(3).ref
    with pytest.raises(UnknownVersion, match="no earlier version"):
        registry.rollback(3)
    registry.promote(3, second)
    assert registry.rollback(3) == BASE


def test_promoting_twice_is_promoting_once(registry, publish):
    ref = publish(1)
    for _ in range(2):
        registry.promote(3, ref)
    assert registry.rollback(3) == BASE


def test_the_base_can_be_promoted_and_follows_the_settings(registry, settings, publish):
    registry.promote(3, publish(1))
    registry.promote(3, BASE)
    model = {"config_file": "grounding_dino_other.py", "checkpoint_file": Path("other-0123abcd.pth")}
    assert registry.current(3).ref == BASE
    assert Registry(settings.model_copy(update=model)).current(3).ref == "other-0123abcd"


def test_a_refused_version_stays_listed_and_can_be_promoted_by_hand(registry, publish):
    ref = publish(1, decision="refused", reason="mAP fell from 0.6 to 0.5")
    assert states(registry, 3)[ref] == "refused"
    assert registry.card(ref).reason == "mAP fell from 0.6 to 0.5"
    registry.promote(3, ref)
    assert states(registry, 3)[ref] == "current"


def test_a_version_of_one_project_can_serve_another(registry, publish):
    ref = publish(1)
    registry.promote(4, ref)
    assert (registry.current(3).ref, registry.current(4).ref) == (BASE, ref)
    assert states(registry, 4) == {BASE: "retired", ref: "current"}


def test_only_what_was_current_before_is_superseded(registry, publish):
    # given
    first, second, third = publish(1), publish(2), publish(3)
    registry.promote(3, first)
    registry.promote(3, second)

    # then
    assert registry.successor(3, BASE).ref == registry.successor(3, first).ref == second
    assert registry.successor(3, second) is None
    assert registry.successor(3, third) is None, "not known as current yet: this process may be behind"
    assert registry.successor(4, BASE) is None

    # and after a rollback the other way round
    registry.rollback(3)
    assert registry.successor(3, second).ref == first
    assert registry.successor(3, first) is None


def test_a_published_version_can_be_the_base_under_its_own_name(settings, publish, tmp_path):
    # given
    ref = publish(1, project_id=None, score_threshold=0.4)
    folder = tmp_path / "models" / "versions" / ref
    files = {"config_file": str(folder / "config.py"), "checkpoint_file": folder / "model.safetensors"}

    # when
    registry = Registry(settings.model_copy(update=files))

    # then
    assert (registry.current(8).ref, registry.base.score_threshold) == (ref, 0.4)
    assert states(registry) == {ref: "base"}
    assert len(registry.list()) == 1


def test_names_count_up_within_a_project_and_keep_the_first_base(registry, publish):
    assert registry.next_name(3, BASE) == ("tiny-shapes-p3", "1")
    for number in (1, 2, 10):
        publish(number)
    assert registry.next_name(3, "tiny-shapes-p3-2") == ("tiny-shapes-p3", "11")
    assert registry.next_name(30, "tiny-shapes-p3-2") == ("tiny-shapes-p30", "1")


def test_a_job_publishes_once(registry, publish):
    # given a job that has published / when it publishes again under the next name
    first = publish(1, job_id="ft-3-a")
    again = publish(2, job_id="ft-3-a")

    # then
    assert again == first
    assert registry.of_job("ft-3-a").ref == first
    assert registry.of_job("ft-3-b") is None
    assert list(states(registry)) == [BASE, first]


@pytest.mark.parametrize("ref", ["tiny-shapes-p3-9", "../../etc", "", ".unfinished-x", "a/b"])
def test_an_unknown_version_is_told_apart_from_those_that_exist(registry, publish, ref):
    known = publish(1)
    for ask in (registry.get, registry.fetch, lambda name: registry.promote(3, name)):
        with pytest.raises(UnknownVersion, match=f"{BASE}, {known}|cannot be the name"):
            ask(ref)


def test_a_version_that_was_deleted_leaves_its_project_with_the_base(settings, publish, registry, caplog):
    # given
    registry.promote(3, publish(1))
    (folder := settings.local_model_dir / "versions" / "tiny-shapes-p3-1").rename(folder.with_name("elsewhere"))

    # when / then
    assert Registry(settings).current(3).ref == BASE
    assert "project 3 goes on with the base model" in caplog.text


def test_a_damaged_card_does_not_hide_the_other_versions(settings, publish):
    for number in (1, 2):
        publish(number)
    (settings.local_model_dir / "versions" / "tiny-shapes-p3-1" / "card.json").write_text('{"name": ')
    registry = Registry(settings)
    assert list(states(registry)) == [BASE, "tiny-shapes-p3-2"]
    assert registry.next_name(3, BASE) == ("tiny-shapes-p3", "3")
    with pytest.raises(UnknownVersion, match="card of model version tiny-shapes-p3-1 is damaged"):
        registry.get("tiny-shapes-p3-1")


def test_a_damaged_pointer_says_what_to_do(settings, registry):
    path = settings.local_model_dir / "projects" / "3" / "current.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(RegistryError, match="project 3 is damaged; delete it"):
        registry.current(3)


def test_the_shipped_card_and_pointers_of_today_load(registry, settings, publish):
    assert registry.base.score_threshold == json.loads((registry.base.checkpoint.parent / "card.json").read_text())[
        "score_threshold"]  # fmt: skip
    registry.promote(3, publish(1))
    pointer = json.loads((settings.local_model_dir / "projects" / "3" / "current.json").read_text())
    assert pointer == {"ref": "tiny-shapes-p3-1", "before": [""], "rolled_back": [], "generation": 1}
    assert Pointer.model_validate(pointer | {"field_of_the_future": 1}).ref == "tiny-shapes-p3-1"


def test_a_directory_without_a_card_is_no_version(tmp_path):
    with pytest.raises(UnknownVersion, match="holds no usable model version"):
        read_version(tmp_path)


def test_a_url_that_cannot_be_opened_names_the_setting():
    with pytest.raises(RegistryError, match=r"^MODEL_DIR: "):
        Registry(read_settings({"MODEL_DIR": "nonsense://bucket/models"}))


def test_working_files_stay_on_this_machine():
    remote = read_settings({"MODEL_DIR": "s3://bucket/models", "MODEL_CACHE_DIR": "/cache"})
    local = read_settings({"MODEL_DIR": "file:///models"})
    assert (str(remote.local_model_dir), str(local.local_model_dir)) == ("/cache", "/models")
