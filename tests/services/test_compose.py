"""The images and docker-compose.yml as people run them: four workers, a killed one, a restarted Redis, flower, metrics.

Run by: pytest. Needs a Docker engine; builds both images (a change of code alone rebuilds in seconds).
Example: pytest tests/services/test_compose.py
"""

from collections import Counter
from urllib.parse import urlsplit

import pytest
import requests

from groundcrew.demo.scenes import make_label_config
from tests.fakes.images import plain_image
from tests.services.composed import Composed, docker, require_engine
from tests.services.forwarder import Forwarder
from tests.services.waiting import wait_for_predictions, wait_until

pytestmark = pytest.mark.timeout(3000)
WORKERS = 4
TASKS = 200
MOST_BYTES_ABOVE_BASE = 250_000_000


@pytest.fixture(scope="module")
def crew(tmp_path_factory, label_studio_server, label_studio_token):
    """Redis, API, writer, trainer, flower and four workers; Label Studio runs beside them, on this host."""
    require_engine()
    bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    port = urlsplit(label_studio_server.url).port
    with Forwarder(bridge, target_port=port) as door:
        settings = {"LABEL_STUDIO_URL": f"http://host.docker.internal:{door.port}", "TORCH_THREADS": "1"}
        crew = Composed(tmp_path_factory.mktemp("compose"), settings, label_studio_token)
        crew.build()
        with crew:
            crew.scale(worker=WORKERS)
            wait_for_workers(crew, WORKERS)
            yield crew


def wait_for_workers(crew, count):
    def alive():
        found = crew.metrics()
        roles = [found.get(("groundcrew_processes", role)) for role in ("predict", "write", "train")]
        return roles == [count, 1, 1]

    wait_until(alive, f"{count} workers, a writer and a trainer", crew.logs, deadline_s=400)


@pytest.fixture
def project(crew, label_studio, make_project):
    """A project that is connected as a person would: secret in the URL, Basic auth."""
    number = make_project(make_label_config())
    url = f"{crew.url}/s/{crew.secret('webhook_secret')}"
    login = ("groundcrew", crew.secret("basic_auth_pass"))
    assert label_studio.connect_backend(number, url, title="groundcrew", login=login).state == "CO"
    return number


def upload(label_studio, project, first, count):
    label_studio.upload_images(project, [plain_image(f"{n}.png") for n in range(first, first + count)])


def predictions_per_task(label_studio, crew, project):
    """Once nothing of the project is under way any more."""

    def under_way():
        found = crew.metrics()
        return sum(found.get(("groundcrew_jobs", str(project), state), 1) for state in ("queued", "running", "writing"))

    wait_until(lambda: under_way() == 0, "the last job", crew.logs, deadline_s=400)
    return Counter(prediction.task for prediction in label_studio.predictions(project))


def working(crew):
    """Names of the workers that have looked at an image."""
    return {labels[0] for (name, *labels), value in crew.metrics().items()
            if name == "groundcrew_worker_images" and labels[0].startswith("worker-") and value > 0}  # fmt: skip


def test_200_tasks_by_four_workers_of_which_one_is_killed(crew, label_studio, project):
    # given a hundred tasks, at which all four work
    upload(label_studio, project, 0, TASKS // 2)
    wait_until(lambda: len(working(crew)) == WORKERS, "work by all four", crew.logs, deadline_s=400)

    # when all of one container is killed while there is more to do
    victim = crew.containers("worker")[0]
    upload(label_studio, project, TASKS // 2, TASKS // 2)
    before = len(label_studio.predictions(project))
    docker("kill", "--signal", "KILL", victim)
    assert before < TASKS, "the kill came too late to show anything"

    # then each task has one prediction
    wait_for_predictions(label_studio, project, TASKS)
    assert Counter(predictions_per_task(label_studio, crew, project).values()) == {1: TASKS}
    crew.scale(worker=WORKERS)
    wait_for_workers(crew, WORKERS)


def test_it_scales_to_one_and_back_and_goes_on(crew, label_studio, project):
    crew.scale(worker=1)
    wait_for_workers(crew, 1)
    upload(label_studio, project, 0, 10)
    wait_for_predictions(label_studio, project, 10)
    crew.scale(worker=WORKERS)
    wait_for_workers(crew, WORKERS)
    upload(label_studio, project, 10, 10)
    wait_for_predictions(label_studio, project, 20)
    assert set(predictions_per_task(label_studio, crew, project).values()) == {1}


def test_a_restart_of_redis_loses_nothing(crew, label_studio, project):
    # given tasks that are being predicted
    upload(label_studio, project, 0, 40)

    # when Redis is restarted
    crew.compose("restart", "redis")

    # then all are predicted once, and new ones too
    upload(label_studio, project, 40, 10)
    wait_for_predictions(label_studio, project, 50)
    assert Counter(predictions_per_task(label_studio, crew, project).values()) == {1: 50}


def test_flower_asks_for_a_password_and_shows_the_workers_and_their_tasks(crew, label_studio, project):
    assert requests.get(f"{crew.flower_url}/", timeout=30).status_code == 401
    login = ("groundcrew", crew.secret("flower_password"))

    def ask(path):
        answer = requests.get(f"{crew.flower_url}{path}", auth=login, timeout=60)
        return answer.json() if answer.status_code == 200 else {}

    wait_until(lambda: sum(name.startswith("worker-") for name in ask("/api/workers?refresh=1")) >= WORKERS,
               "four workers", crew.logs)  # fmt: skip
    upload(label_studio, project, 0, 5)
    wait_until(lambda: any(f"project_id={project} " in task["kwargs"] for task in ask("/api/tasks").values()),
               "tasks with readable arguments", crew.logs)  # fmt: skip
    shown = str(ask("/api/tasks"))
    assert "/data/upload" not in shown
    stopped = requests.post(f"{crew.flower_url}/api/worker/shutdown/x", auth=login, timeout=30)
    assert stopped.status_code in (403, 404, 405)


def test_every_container_is_healthy_and_hardened_and_shows_no_secret(crew):
    secrets = [crew.secret(name) for name in ("redis_password", "basic_auth_pass", "webhook_secret", "api_token")]
    for service in ("redis", "api", "worker", "writer", "trainer", "flower"):
        for container in crew.containers(service):
            wait_until(lambda container=container: crew.inspect(container)["State"]["Health"]["Status"] == "healthy",
                       f"{service} to be healthy", crew.logs)  # fmt: skip
            found = crew.inspect(container)
            assert found["HostConfig"]["ReadonlyRootfs"]
            assert found["Config"]["User"] not in ("", "root", "0")
            assert not any(secret in str(found) for secret in secrets)


def test_the_api_image_is_thin():
    require_engine()
    sizes = {image: int(docker("image", "inspect", "--format", "{{.Size}}", image)) for image in
             ("groundcrew-api", "python:3.11-slim-bookworm")}  # fmt: skip
    assert sizes["groundcrew-api"] - sizes["python:3.11-slim-bookworm"] < MOST_BYTES_ABOVE_BASE
    look = "import importlib.util as u; print([name for name in ('torch', 'numpy', 'mmdet') if u.find_spec(name)])"
    tried = docker("run", "--rm", "groundcrew-api", "python", "-c", look)
    assert tried.strip() == "[]"
    docker("run", "--rm", "groundcrew-api", "python", "-c", "import s3fs")  # it reads a registry in a bucket


def test_the_doctor_finds_the_deployment_in_order(crew):
    answer = crew.compose("run", "--rm", "-T", "crew", "doctor")
    assert "redis" in answer


def test_the_configuration_is_clean_with_and_without_gpus(crew):
    crew.compose("config", "--quiet")
    crew.compose("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml", "config", "--quiet")
    crew.compose("--profile", "label-studio", "--profile", "monitoring", "--profile", "tools", "config", "--quiet")
