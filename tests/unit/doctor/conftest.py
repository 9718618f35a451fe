"""A patient for the doctor: a Label Studio and an API that are fakes, and a Redis that does not answer.

Called by: the tests of this folder. The real ones are in tests/services/test_doctor.py.
Must not import: torch.
Example: def test_it(patient): check = check_token(patient(label_studio_api_key="..."))
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from contract.settings import Settings, read_settings
from groundcrew.checks.patient import Patient
from groundcrew.child import free_port
from tests.fakes.label_studio import FakeLabelStudio
from tests.fakes.stub_backend import StubBackend


class GroundcrewStub(StubBackend):
    """Answers /health as our API does."""

    def answer(self, path: str, body: dict) -> object:
        return {"status": "UP", "model_class": "Groundcrew", "redis": "up", "open_jobs": 3}


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.start() as fake:
        yield fake


@pytest.fixture(scope="session")
def api() -> Iterator[StubBackend]:
    with GroundcrewStub.start() as stub:
        yield stub


@pytest.fixture
def settings(label_studio: FakeLabelStudio, api: StubBackend) -> Callable[..., Settings]:
    """Makes settings that point at the fakes. Any model will do: its files are never read here."""

    def make(**fields: object) -> Settings:
        usual: dict[str, object] = {
            "label_studio_url": label_studio.url, "label_studio_api_key": label_studio.personal_token,
            "redis_url": f"redis://127.0.0.1:{free_port()}/0", "api_port": int(api.url.rpartition(":")[2]),
            "config_file": "some.py", "checkpoint_file": "some-0123abcd.pth",
        }  # fmt: skip
        return read_settings({}, **usual | fields)

    return make


@pytest.fixture
def patient(settings: Callable[..., Settings]) -> Iterator[Callable[..., Patient]]:
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(Patient(settings(**fields)))
