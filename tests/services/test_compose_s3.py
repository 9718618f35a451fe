"""docker-compose with model versions in a bucket: what one container publishes, the others list, load and promote.

Run by: pytest. Needs a Docker engine; builds both images. The S3 server is a container beside ours and checks keys; the
one file with ours is secrets/aws_credentials. Must not import: backend, worker.
Example: pytest tests/services/test_compose_s3.py
"""

import base64
import json
import sys
from contextlib import contextmanager

import pytest
import requests

from groundcrew.child import free_port
from groundcrew.demo.scenes import make_images, make_label_config
from tests.services.composed import Composed, docker, require_engine
from tests.services.machine import absent
from tests.services.s3_server import compose_s3, demand_keys
from tests.services.waiting import answers, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(3000)]

PROJECT = 7
BASE, FIRST, SECOND = "tiny-shapes-1", "bucket-shapes-1", "bucket-shapes-2"
#: `groundcrew models add` and `models promote` in one process; the second version has the files of the first.
PUBLISH = f"""
from contract.registry import TINY, ZOO, Registry
from contract.settings import read_settings
from groundcrew.models_command import add_model, promote_model

settings = read_settings()
add_model(settings, ZOO / TINY, "bucket-shapes", "1")
promote_model(settings, "{FIRST}", {PROJECT})
registry = Registry(settings)
second = registry.card("{FIRST}").model_copy(update={{"version": "2"}})
registry.publish(registry.fetch("{FIRST}").checkpoint.parent, second)
"""


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    """Redis, API, worker and writer of docker-compose.yml as it is, and an S3 server; nothing is published yet."""
    require_engine()
    if sys.version_info[:2] != (3, 11):
        absent("Python 3.11, which the image has: it runs moto's package of this environment")
    folder = tmp_path_factory.mktemp("bucket")
    port = free_port()
    (folder / "s3.yml").write_text(json.dumps(compose_s3(port)))
    settings = {
        "COMPOSE_FILE": f"docker-compose.yml:{folder / 's3.yml'}", "MODEL_DIR": "s3://crew/models",
        "AWS_ENDPOINT_URL": "http://s3:5000", "AWS_DEFAULT_REGION": "", "LABEL_STUDIO_URL": "", "TORCH_THREADS": "1",
    }  # fmt: skip
    crew = Composed(folder, settings, token="")
    crew.build()
    with crew:
        crew.up("s3")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the S3 server", crew.logs)
        crew.write_secret("aws_credentials", demand_keys(f"http://127.0.0.1:{port}", "crew").as_file())
        crew.up("redis", "api", "worker", "writer")
        yield crew


@pytest.fixture(scope="module")
def published(crew):
    """Two versions, made in one container, which promotes the first; its cache is its own, so others have to fetch."""
    crew.compose("exec", "-T", "-e", "MODEL_CACHE_DIR=/tmp/cache", "writer", "python", "-c", PUBLISH)
    wait_until(lambda: crew.metrics().get(("groundcrew_processes", "predict")) == 1, "a worker", crew.logs)


def ask(crew, path, body=None):
    method, token = ("GET", "POST")[body is not None], {"Authorization": f"Bearer {crew.secret('api_token')}"}
    return requests.request(method, f"{crew.url}{path}", json=body, headers=token, timeout=100)


def setup(crew):
    return ask(crew, "/setup", {"project": f"{PROJECT}.1", "schema": make_label_config()})


def predict(crew, task):
    """The prediction of one image with shapes, as Label Studio gets it without a token for writing back."""
    (image,) = make_images(1, first_seed=task)
    address = f"data:image/png;base64,{base64.b64encode(image.file.content).decode()}"
    body = {"tasks": [{"id": task, "data": {"image": address}}], "project": f"{PROJECT}.1",
            "label_config": make_label_config(), "params": {}}  # fmt: skip
    answer = ask(crew, "/predict", body)
    assert answer.status_code == 200, answer.text + crew.logs()
    (prediction,) = answer.json()["results"]
    assert prediction, crew.logs()
    return prediction


def press(crew, button, **fields):
    """A button of the status page, as a browser that was given a token presses it."""
    form = {"csrf": "token", "confirmed": "yes", **fields}
    answer = requests.post(f"{crew.url}/ui/projects/{PROJECT}/{button}", data=form, cookies={"gc_csrf": "token"},
                           headers={"Authorization": f"Bearer {crew.secret('api_token')}"}, timeout=100,
                           allow_redirects=False)  # fmt: skip
    assert answer.status_code == 303, answer.text[-2000:]


def cached(crew):
    """Names of the versions in the volume that our containers share on one host."""
    (worker,) = crew.containers("worker")
    return docker("exec", worker, "sh", "-c", "mkdir -p /models/versions; ls -A /models/versions").split()


def test_a_version_of_the_bucket_is_listed_loaded_and_answers(crew, published):
    # given
    assert cached(crew) == []
    assert ask(crew, "/versions").json()["models"] == [BASE, FIRST, SECOND]

    # when
    prediction = predict(crew, task=1)

    # then
    assert prediction["model_version"].startswith(f"{FIRST}.")
    assert prediction["model_version"] == setup(crew).json()["model_version"]
    assert prediction["result"]
    assert cached(crew) == [FIRST]


def test_the_status_page_promotes_and_rolls_back(crew, published):
    # given a project that it knows, and a version that this host has not
    assert setup(crew).json()["model_version"].startswith(f"{FIRST}.")

    # when / then
    press(crew, "promote", ref=SECOND)
    assert predict(crew, task=2)["model_version"].startswith(f"{SECOND}.")
    press(crew, "rollback")
    assert predict(crew, task=3)["model_version"].startswith(f"{FIRST}.")


@contextmanager
def other_secret(crew):
    """The file of the keys with another secret in it."""
    right = crew.secret("aws_credentials")
    start_api_with(crew, right.replace("aws_secret_access_key = ", "aws_secret_access_key = x"))
    try:
        yield
    finally:
        start_api_with(crew, right)


def start_api_with(crew, keys):
    """It keeps the keys that it began with."""
    crew.write_secret("aws_credentials", keys)
    crew.compose("restart", "api")
    wait_until(lambda: answers(f"{crew.url}/health"), "the API", crew.logs)


def test_a_wrong_key_is_one_sentence_that_names_the_settings(crew, published):
    before = setup(crew).json()
    with other_secret(crew):
        answer = setup(crew)

        assert (answer.status_code, answer.json()["code"]) == (500, "registry_error")
        said = answer.json()["message"]
        assert said.startswith(f"MODEL_DIR: crew/models/projects/{PROJECT}/current.json cannot be read: Forbidden; ")
        assert "AWS_SHARED_CREDENTIALS_FILE (with docker-compose secrets/aws_credentials)" in said
        assert answer.reason == said
        log = crew.compose("logs", "--no-color", "api")
        assert said in log
        assert "Traceback" not in log
    assert setup(crew).json() == before
