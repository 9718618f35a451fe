"""Publishing breaks at every step, by error and by kill, on a disk and behind a URL: old or new, never a mixture."""

import json
import os
import time

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contract.errors import CheckpointRefused, RegistryError
from contract.publish import SWEEP_AFTER_S, Disk, create_file, find_damage, replace_file
from contract.registry import Registry
from contract.settings import read_settings
from contract.stores import FolderStore, RemoteStore
from tests.fakes.versions import CONTENT, BreakingDisk, DiskFull, card, version_files

STEPS_OF_A_VERSION = 10  #: 4 files, checksums, card, 2 folders synced, rename, folder synced
STEPS_OF_A_POINTER = 6  #: written, named, folder synced: the change, then current.json


def registry_on(root, disk=None):
    return Registry(read_settings({"MODEL_DIR": str(root)}), FolderStore(root, disk))


def in_a_process_that_is_killed(work):
    """Run `work` in a fork that ends at the broken step without cleaning up."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def error_of(work):
    """The message of the RegistryError that `work` ends with; empty where it succeeds."""
    try:
        work()
    except RegistryError as error:
        return error.message
    return ""


def refs(registry):
    return [row.ref for row in registry.list()][1:]


def test_a_published_version_is_complete_and_its_checksums_are_right(tmp_path):
    # given / when
    version = registry_on(tmp_path / "models").publish(version_files(tmp_path), card())

    # then
    folder = tmp_path / "models" / "versions" / "tiny-shapes-p3-1"
    assert find_damage(folder) is None
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *CONTENT, "card.json", "checksums.json"}  # fmt: skip
    assert version.checkpoint == folder / "model.safetensors"
    assert version.lang_model == folder / "bert"
    assert json.loads((folder / "checksums.json").read_text()).keys() == CONTENT.keys()


@pytest.mark.parametrize("good_steps", range(STEPS_OF_A_VERSION + 1))
def test_an_error_at_any_step_leaves_no_version_or_the_whole(tmp_path, good_steps):
    # given a version that is there already
    root, new = tmp_path / "models", version_files(tmp_path, "b")
    registry_on(root).publish(version_files(tmp_path), card(1))

    # when the next one is published on a disk that fills up
    error = error_of(lambda: registry_on(root, BreakingDisk(good_steps)).publish(new, card(2)))

    # then the old one is whole, the new one whole or absent, and nothing else lies about
    assert ("No space left on device; free space" in error) is (good_steps < STEPS_OF_A_VERSION)
    found = sorted(path.name for path in (root / "versions").iterdir())
    assert found in (["tiny-shapes-p3-1"], ["tiny-shapes-p3-1", "tiny-shapes-p3-2"])
    assert [find_damage(root / "versions" / name) for name in found] == [None] * len(found)


@pytest.mark.parametrize("good_steps", range(STEPS_OF_A_VERSION + 1))
def test_a_kill_at_any_step_leaves_no_version_or_the_whole_and_the_next_try_makes_one(tmp_path, good_steps):
    # given / when the process dies at a step
    root, new = tmp_path / "models", version_files(tmp_path)
    broken = registry_on(root, BreakingDisk(good_steps, kill=True))
    code = in_a_process_that_is_killed(lambda: broken.publish(new, card(1, job_id="ft-3-a")))
    assert code == (9 if good_steps < STEPS_OF_A_VERSION else 0)

    # then it is not there at all, or whole
    assert refs(registry_on(root)) in ([], ["tiny-shapes-p3-1"])

    # when another trainer publishes the same job, whose weights came out a bit different
    version = registry_on(root).publish(version_files(tmp_path, "b"), card(1, job_id="ft-3-a"))

    # then there is exactly one version, all of one kind
    assert refs(registry_on(root)) == [version.ref] == ["tiny-shapes-p3-1"]
    assert registry_on(root).fetch(version.ref) == version


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("good_steps", range(STEPS_OF_A_POINTER + 1))
def test_a_promotion_that_breaks_leaves_the_old_pointer_or_the_new(tmp_path, good_steps, kill):
    # given a project with a version, and a better one
    root = tmp_path / "models"
    registry = registry_on(root)
    for number in (1, 2):
        registry.publish(version_files(tmp_path, str(number)), card(number))
    registry.promote(3, "tiny-shapes-p3-1")

    # when
    broken = registry_on(root, BreakingDisk(good_steps, kill=kill))
    if kill:
        in_a_process_that_is_killed(lambda: broken.promote(3, "tiny-shapes-p3-2"))
    else:
        error = error_of(lambda: broken.promote(3, "tiny-shapes-p3-2"))
        assert ("No space" in error) is (good_steps < STEPS_OF_A_POINTER)

    # then
    renamed = good_steps >= 5
    assert registry.current(3).ref == ("tiny-shapes-p3-2" if renamed else "tiny-shapes-p3-1")

    # and promoting again works
    registry.promote(3, "tiny-shapes-p3-2")
    assert (registry.current(3).ref, registry.rollback(3)) == ("tiny-shapes-p3-2", "tiny-shapes-p3-1")


def test_a_version_is_never_changed(tmp_path):
    registry = registry_on(tmp_path / "models")
    registry.publish(version_files(tmp_path), card(1, job_id="ft-3-a"))
    with pytest.raises(RegistryError, match="tiny-shapes-p3-1 exists already"):
        registry.publish(version_files(tmp_path, "b"), card(1, job_id="ft-3-b"))
    assert find_damage(tmp_path / "models" / "versions" / "tiny-shapes-p3-1") is None


def test_a_directory_without_weights_is_not_published(tmp_path):
    folder = version_files(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match=r"model\.safetensors missing"):
        registry_on(tmp_path / "models").publish(folder, card())
    assert refs(registry_on(tmp_path / "models")) == []


@pytest.mark.parametrize("name", [*CONTENT, "checksums.json"])
@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    # given a version of which one file changes on the disk
    registry = registry_on(tmp_path / "models")
    registry.publish(version_files(tmp_path), card())
    path = tmp_path / "models" / "versions" / "tiny-shapes-p3-1" / name
    if damage == "change":
        path.write_bytes(b"[" + path.read_bytes()[1:])
    else:
        path.unlink()

    # when / then it is neither loaded nor promoted
    with pytest.raises(CheckpointRefused, match=name):
        registry.fetch("tiny-shapes-p3-1")
    with pytest.raises(CheckpointRefused, match="damaged"):
        registry.promote(3, "tiny-shapes-p3-1")
    assert registry.current(3) == registry.base


def test_what_a_killed_publisher_left_is_swept_up_a_day_later(tmp_path):
    # given leftovers, one of them of a publisher that may still live
    versions = tmp_path / "models" / "versions"
    for name in ("old", "young"):
        (versions / f".unfinished-{name}").mkdir(parents=True)
    a_day_ago = time.time() - SWEEP_AFTER_S - 1
    os.utime(versions / ".unfinished-old", (a_day_ago, a_day_ago))

    # when
    registry_on(tmp_path / "models").publish(version_files(tmp_path), card())

    # then
    assert sorted(path.name for path in versions.iterdir()) == [".unfinished-young", "tiny-shapes-p3-1"]


# -- behind a URL ------------------------------------------------------------------------------------------------------


class BreakingCloud(MemoryFileSystem):
    """fsspec's own memory file system, whose uploads break after `good_uploads`; the broken one is cut short."""

    cachable = False
    good_uploads = 10**9
    away = False

    def cat_file(self, path, start=None, end=None, **more):
        if self.away:
            raise ConnectionError("no answer")
        return super().cat_file(path, start, end, **more)

    def pipe_file(self, path, value, mode="overwrite", **more):
        if self._breaks():
            super().pipe_file(path, value[: len(value) // 2], mode, **more)
            raise DiskFull
        super().pipe_file(path, value, mode, **more)

    def put_file(self, lpath, rpath, **more):
        if self._breaks():
            raise DiskFull
        super().put_file(lpath, rpath, **more)

    def _breaks(self):
        self.good_uploads -= 1
        return self.good_uploads < 0


@pytest.fixture
def cloud():
    yield BreakingCloud()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def registry_in(cloud, cache_dir):
    return Registry(read_settings({"MODEL_DIR": "memory://models"}), RemoteStore(cloud, "/models", cache_dir=cache_dir))


@pytest.mark.parametrize("good_uploads", range(5))
def test_an_upload_that_breaks_before_the_card_is_no_version_and_may_be_repeated(tmp_path, cloud, good_uploads):
    # given an upload that ends early
    cloud.good_uploads = good_uploads
    with pytest.raises(RegistryError, match="No space left"):
        registry_in(cloud, tmp_path / "cache").publish(version_files(tmp_path), card(1, job_id="ft-3-a"))
    assert refs(registry_in(cloud, tmp_path / "cache")) == []

    # when it is repeated with other weights
    cloud.good_uploads = 10**9
    registry_in(cloud, tmp_path / "cache").publish(version_files(tmp_path, "b"), card(1, job_id="ft-3-a"))

    # then a worker elsewhere gets exactly those
    version = registry_in(cloud, tmp_path / "elsewhere").fetch("tiny-shapes-p3-1")
    assert version.checkpoint.read_text() == "weights b"
    assert version.lang_model is not None


def test_a_remote_version_is_fetched_once_and_again_when_the_copy_is_damaged(tmp_path, cloud):
    # given a version that a worker has fetched
    registry = registry_in(cloud, tmp_path / "cache")
    registry.publish(version_files(tmp_path), card())
    weights = registry.fetch("tiny-shapes-p3-1").checkpoint
    seen = weights.stat().st_ino

    # when it is asked for again, and again after its copy went bad
    assert registry.fetch("tiny-shapes-p3-1").checkpoint.stat().st_ino == seen
    weights.write_text("weights x")
    registry.fetch("tiny-shapes-p3-1")

    # then
    assert weights.read_text() == "weights a"


def test_a_remote_version_with_a_wrong_checksum_is_refused(tmp_path, cloud):
    registry = registry_in(cloud, tmp_path / "cache")
    registry.publish(version_files(tmp_path), card())
    cloud.pipe_file("/models/versions/tiny-shapes-p3-1/config.py", b"model = 2\n")
    with pytest.raises(CheckpointRefused, match=r"config\.py differs from its checksum"):
        registry.fetch("tiny-shapes-p3-1")
    assert list((tmp_path / "cache" / "versions").iterdir()) == []


def test_a_remote_version_cannot_name_files_outside_of_itself(tmp_path, cloud):
    registry = registry_in(cloud, tmp_path / "cache")
    registry.publish(version_files(tmp_path), card())
    cloud.pipe_file("/models/versions/tiny-shapes-p3-1/checksums.json", json.dumps({"../../../evil": "0"}).encode())
    with pytest.raises(CheckpointRefused, match="outside of itself"):
        registry.fetch("tiny-shapes-p3-1")
    assert not (tmp_path / "evil").exists()


def test_a_remote_project_has_its_current_version_and_goes_on_with_it_while_the_store_is_away(tmp_path, cloud):
    # given
    registry = registry_in(cloud, tmp_path / "cache")
    registry.publish(version_files(tmp_path), card())
    assert registry.current(3) == registry.base
    registry.promote(3, "tiny-shapes-p3-1")
    assert registry.current(3).ref == "tiny-shapes-p3-1"

    # when nothing can be read any more
    cloud.away = True
    assert registry.successor(3, "tiny-shapes-1").ref == "tiny-shapes-p3-1"

    # then a process that knew nothing says so
    with pytest.raises(RegistryError, match="cannot be read"):
        registry_in(cloud, tmp_path / "cache").current(3)


def test_a_file_that_could_not_take_its_name_leaves_nothing_beside(tmp_path):
    # given
    pointer = tmp_path / "current.json"
    assert create_file(pointer, b"old", Disk())
    pointer.with_name("folder").mkdir()

    # when the name is taken, or cannot be replaced
    assert not create_file(pointer, b"new", Disk())
    with pytest.raises(IsADirectoryError):
        replace_file(pointer.with_name("folder"), b"new", Disk())

    # then
    assert pointer.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current.json", "folder"]
