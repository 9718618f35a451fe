"""The registry behind s3://, against a real S3 server: every request goes over HTTP and through boto's own client.

Called by: pytest. Must not import: torch.
The server is moto's; the races are those of tests/unit/test_registry_races.py, here with S3's conditional PUT.
Example: pytest tests/services/test_registry_s3.py
"""

import subprocess
import sys
import threading
import time

import fsspec
import pytest

from contract.errors import CheckpointRefused, RegistryError
from contract.registry import Registry
from contract.settings import read_settings
from groundcrew.checks.model import check_registry
from groundcrew.checks.patient import Patient
from groundcrew.child import bare_environment
from tests.fakes.versions import CONTENT, card, version_files
from tests.services.machine import REPOSITORY
from tests.services.s3_server import demand_keys, serve_s3

pytestmark = pytest.mark.services

BASE, FIRST, SECOND = "tiny-shapes-1", "tiny-shapes-p3-1", "tiny-shapes-p3-2"
UPLOADS_OF_A_VERSION = len(CONTENT) + 2  #: and checksums, and the card
CROWD = 5
LABEL_STUDIOS_PATIENCE_S = 3  #: with /setup


@pytest.fixture(scope="module")
def access(tmp_path_factory):
    """Variables that lead boto to a server of our own, which holds an empty bucket."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as variables:
        yield variables


@pytest.fixture
def cloud(access, monkeypatch):
    """The client's own view of an empty bucket."""
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.mkdir("crew")
    yield s3
    s3.rm("crew", recursive=True)


@pytest.fixture
def open_registry(cloud, tmp_path):
    """The registry as a machine with a cache of its own sees it."""
    return lambda machine="a": Registry(read_settings(environment_of(tmp_path, machine)))


def environment_of(tmp_path, machine="a"):
    return {"MODEL_DIR": "s3://crew/models", "MODEL_CACHE_DIR": str(tmp_path / machine)}


@pytest.fixture
def filled(open_registry, tmp_path):
    """Two versions of project 3, nothing promoted."""
    registry = open_registry()
    for number in (1, 2):
        registry.publish(version_files(tmp_path, str(number)), card(number, job_id=f"ft-3-{number}"))
    return registry


def states(registry, project_id=3):
    return {row.ref: row.state for row in registry.list(project_id)}


def test_a_version_published_on_one_machine_is_promoted_loaded_and_rolled_back_on_another(filled, open_registry):
    # given / when
    other = open_registry("b")
    assert states(other) == {BASE: "current", FIRST: "candidate", SECOND: "candidate"}
    other.promote(3, FIRST)
    other.promote(3, SECOND)

    # then
    assert states(open_registry("c")) == {BASE: "retired", FIRST: "retired", SECOND: "current"}
    loaded = open_registry("c").fetch(SECOND)
    assert loaded.checkpoint.read_text() == "weights 2"
    assert (loaded.lang_model / "vocab.txt").read_text() == CONTENT["bert/vocab.txt"]
    assert open_registry("c").rollback(3) == FIRST == open_registry("b").current(3).ref


def test_a_version_is_never_changed(filled, tmp_path):
    with pytest.raises(RegistryError, match=f"{SECOND} exists already"):
        filled.publish(version_files(tmp_path, "x"), card(2, job_id="ft-3-x"))


def test_a_changed_object_is_refused_and_the_current_version_stays(filled, open_registry, cloud):
    cloud.pipe_file(f"crew/models/versions/{SECOND}/model.safetensors", b"weights of somebody else")
    other = open_registry("b")
    other.promote(3, FIRST)
    with pytest.raises(CheckpointRefused, match=r"model\.safetensors differs from its checksum"):
        other.promote(3, SECOND)
    assert open_registry("c").current(3).ref == FIRST


@pytest.mark.parametrize("uploads", range(UPLOADS_OF_A_VERSION + 1))
def test_a_kill_in_the_middle_of_an_upload_leaves_the_old_ones_and_the_next_try_makes_one(
    access, open_registry, cloud, tmp_path, uploads
):  # fmt: skip
    # given a current version
    registry = open_registry()
    registry.publish(version_files(tmp_path, "1"), card(1, job_id="ft-3-1"))
    registry.promote(3, FIRST)

    # when the process that publishes the next one dies before its last, or after all
    folder = version_files(tmp_path, "2")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fakes.dying_publisher", str(uploads), str(folder), "ft-3-2"],
        cwd=REPOSITORY, env=bare_environment(access | environment_of(tmp_path, "dying")), timeout=300, check=False,
    )  # fmt: skip
    whole = uploads == UPLOADS_OF_A_VERSION
    assert ended.returncode == (0 if whole else 9)

    # then the old one is current, and the new one is whole or not there
    seen = open_registry("b")
    assert (seen.current(3).ref, SECOND in states(seen)) == (FIRST, whole)
    assert seen.fetch(FIRST).checkpoint.read_text() == "weights 1"

    # when another trainer does the job again, with weights that came out a bit different
    again = open_registry("c").publish(version_files(tmp_path, "2b"), card(2, job_id="ft-3-2"))

    # then there is one version of it, all of one kind
    assert again.ref == SECOND
    assert open_registry("d").fetch(SECOND).checkpoint.read_text() == ("weights 2" if whole else "weights 2b")


def test_promotions_at_the_same_instant_are_all_in_the_history(open_registry, tmp_path):
    # given
    registry = open_registry()
    refs = [registry.publish(version_files(tmp_path, str(n)), card(n)).ref for n in range(CROWD)]
    barrier = threading.Barrier(CROWD)

    def promote(machine, ref):
        barrier.wait()
        open_registry(machine).promote(3, ref)

    # when
    crowd = [threading.Thread(target=promote, args=(f"m{n}", ref)) for n, ref in enumerate(refs)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()

    # then
    fresh = open_registry("z")
    assert sorted([fresh.current(3).ref, *(fresh.rollback(3) for _ in range(CROWD))]) == sorted([*refs, BASE])


@pytest.fixture
def no_cached_client():
    """Neither before nor afterwards: a client keeps the keys that it was opened with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_without_keys_reading_and_listing_are_errors_that_name_model_dir(filled, open_registry, monkeypatch,
                                                                         no_cached_client):  # fmt: skip
    """What boto raises then is no OSError."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")

    with pytest.raises(RegistryError, match=r"MODEL_DIR: .* cannot be read: Unable to locate credentials"):
        open_registry("keyless").current(3)
    with pytest.raises(RegistryError, match=r"MODEL_DIR: .* cannot be listed"):
        open_registry("keyless").list(3)


# -- a store that refuses, or is not there -----------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path, monkeypatch, no_cached_client):
    """The right keys of a server that checks them, and a function that puts a text into the file they are read from."""
    with serve_s3(tmp_path) as access:
        keys = demand_keys(access["AWS_ENDPOINT_URL"], "crew")
        monkeypatch.setenv("AWS_ENDPOINT_URL", access["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

        def use(text):
            (tmp_path / "credentials").write_text(text)
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            return read_settings(environment_of(tmp_path))

        yield keys, use


def everything(tmp_path):
    """What one may ask of a registry."""
    files = version_files(tmp_path)
    return (lambda r: r.current(3), lambda r: r.list(), lambda r: r.get(FIRST), lambda r: r.promote(3, BASE),
            lambda r: r.publish(files, card()))  # fmt: skip


def test_keys_that_the_store_refuses_are_errors_that_name_where_they_stand(guarded, tmp_path):
    keys, use = guarded
    for text in (keys._replace(secret="other").as_file(), keys._replace(key_id="AKIAOTHER").as_file(), "no keys\n"):
        settings = use(text)
        for what in everything(tmp_path):
            with pytest.raises(RegistryError, match=r"^MODEL_DIR: .* check the keys: AWS_SHARED_CREDENTIALS_FILE"):
                what(Registry(settings))
        assert keys.secret not in check_registry(Patient(settings)).message
    assert Registry(use(keys.as_file())).current(3).ref == BASE


def test_the_doctor_examines_the_registry(guarded, tmp_path):
    keys, use = guarded
    Registry(use(keys.as_file())).publish(version_files(tmp_path), card())
    assert check_registry(Patient(use(keys.as_file()))).message == "1 model version beside the base in s3://crew/models"

    found = check_registry(Patient(use(keys._replace(secret="other").as_file())))

    assert found.status == "problem"
    assert "AWS_SHARED_CREDENTIALS_FILE" in found.message
    assert "start the processes again" in found.remedy


def test_keys_for_one_folder_of_the_bucket_suffice_to_read(tmp_path, monkeypatch, no_cached_client):
    with serve_s3(tmp_path) as access:
        # given keys from which S3 hides whether there is such a bucket, and an empty folder
        keys = demand_keys(access["AWS_ENDPOINT_URL"], "crew", folder="models")
        (tmp_path / "credentials").write_text(keys.as_file())
        monkeypatch.setenv("AWS_ENDPOINT_URL", access["AWS_ENDPOINT_URL"])
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        assert not fsspec.filesystem("s3").exists("crew")
        registry = Registry(read_settings(environment_of(tmp_path)))

        # then it is no missing bucket
        assert registry.current(3).ref == BASE
        assert [row.ref for row in registry.list()] == [BASE]


def test_a_bucket_that_is_missing_is_an_error_and_is_not_made(cloud, tmp_path):
    """It reads like an empty one: every project would silently be back at the base model."""
    settings = read_settings(environment_of(tmp_path) | {"MODEL_DIR": "s3://crw/models"})
    for what in everything(tmp_path):
        with pytest.raises(RegistryError, match="MODEL_DIR: there is no bucket crw"):
            what(Registry(settings))
    assert not cloud.exists("crw")


def test_a_store_that_goes_away_before_the_files_are_fetched_is_an_error_that_names_it(tmp_path, monkeypatch,
                                                                                      no_cached_client):  # fmt: skip
    # given a version that this process has seen
    with serve_s3(tmp_path) as access:
        for name, value in access.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("crew")
        Registry(read_settings(environment_of(tmp_path))).publish(version_files(tmp_path), card())
        other = Registry(read_settings(environment_of(tmp_path, "b")))
        assert (other.card(FIRST).ref, other.current(3).ref) == (FIRST, BASE)

    # when / then
    with pytest.raises(RegistryError, match=r"cannot be fetched from MODEL_DIR: .*; check AWS_ENDPOINT_URL"):
        other.fetch(FIRST)
    asked_s = time.monotonic()
    assert other.current(3).ref == BASE
    assert time.monotonic() - asked_s < LABEL_STUDIOS_PATIENCE_S
