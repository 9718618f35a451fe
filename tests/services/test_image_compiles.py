"""In a worker's container Triton's C module is compiled and loaded: a read-only root, the mounts of docker-compose.yml.

Run by: pytest. Needs a Docker engine; builds the worker's image. No GPU: for NVIDIA's library stands an empty one.
Must not import: worker.
Example: pytest tests/services/test_image_compiles.py
"""

import importlib.util
import sys
from collections.abc import Iterator

import pytest

from tests.services.composed import BUILD_DEADLINE_S, Composed, docker, require_engine
from tests.services.machine import absent

pytestmark = pytest.mark.timeout(3000)
CACHE = "/var/cache/triton"
#: Triton itself compiles its C module, with the compiler, options and folder of a worker on a GPU, and loads it.
COMPILE = r"""
import ctypes, pathlib, re, subprocess, sys
sys.path.insert(0, "/triton")
from triton.backends.nvidia import driver

try:
    pathlib.Path("/app/written").touch()
except OSError as error:
    print("root:", error.strerror)

# NVIDIA's library comes with a GPU: one of the same name, whose functions do nothing
folder = pathlib.Path("/var/cache/triton/stub")
folder.mkdir()
names = sorted(set(re.findall(r"\bcu[A-Z]\w*(?=\()", pathlib.Path(driver.dirname, "driver.c").read_text())))
(folder / "stub.c").write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
library = folder / "libcuda.so.1"
subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, folder / "stub.c"], check=True)
ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)

from triton import knobs

knobs.nvidia.libcuda_path = str(folder)
module = driver.CudaUtils()
print("loaded:", callable(module.launch), "from", knobs.cache.dir)
"""


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    require_engine()
    if sys.version_info[:2] != (3, 11):
        absent("Python 3.11, which the image has: it runs Triton's package of this environment")
    crew = Composed(tmp_path_factory.mktemp("compose"), {}, "no token")
    crew.compose("build", "worker", deadline_s=BUILD_DEADLINE_S)
    with crew:
        yield crew


def run_in_worker(crew: Composed, service: str, program: str, *options: str) -> str:
    """As `docker-compose run` starts that service, with our Triton beside: the CPU build of torch brings none."""
    spec = importlib.util.find_spec("triton")
    assert spec is not None
    assert spec.submodule_search_locations
    mount = f"{spec.submodule_search_locations[0]}:/triton/triton:ro"
    return crew.compose("run", "--rm", "-T", "--no-deps", "--volume", mount, *options, service, "python", "-c", program)


@pytest.mark.parametrize("service", ["worker", "trainer"])
def test_tritons_module_is_compiled_and_loaded(crew: Composed, service: str) -> None:
    said = run_in_worker(crew, service, COMPILE)

    assert said.splitlines() == ["root: Read-only file system", f"loaded: True from {CACHE}"]


def test_nothing_can_be_loaded_from_tmp(crew: Composed) -> None:
    """Where it would fail if docker-compose.yml had no mount of its own for what is compiled."""
    with pytest.raises(AssertionError, match="failed to map segment from shared object"):
        run_in_worker(crew, "worker", COMPILE, "-e", "TRITON_CACHE_DIR=/tmp/triton")


def test_only_our_user_can_write_there(crew: Composed) -> None:
    look = f"import os; s = os.stat({CACHE!r}); print(s.st_uid == os.getuid(), oct(s.st_mode & 0o222))"

    assert run_in_worker(crew, "worker", look).strip() == "True 0o200"


def test_the_image_has_no_other_build_tool() -> None:
    require_engine()
    look = "import shutil; print([name for name in ('g++', 'make', 'cmake', 'ninja', 'nvcc') if shutil.which(name)])"
    assert docker("run", "--rm", "groundcrew-worker", "python", "-c", look).strip() == "[]"
