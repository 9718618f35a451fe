"""`groundcrew doctor` with a real Redis, Label Studio and crew: a healthy system is fine, and each fault is found.

Called by: pytest. What its fake Label Studio says in tests/unit/doctor is what the real one says here.
Must not import: torch.
Example: pytest tests/services/test_doctor.py
"""

import json
import subprocess
import sys

import pytest
import requests

from contract.broker import connect_redis
from contract.heartbeats import Heartbeat, alive
from contract.settings import read_settings
from groundcrew.checks.check import ok, skipped
from groundcrew.checks.connection import check_connection, check_webhooks
from groundcrew.checks.crew import check_crew
from groundcrew.checks.label_studio import check_label_studio, check_token
from groundcrew.checks.labels import check_labels
from groundcrew.checks.patient import Patient
from groundcrew.checks.queue import check_redis, check_redis_durability, check_redis_memory
from groundcrew.child import bare_environment
from groundcrew.demo.scenes import make_label_config
from groundcrew.label_studio.login import PersonalToken
from groundcrew.label_studio.server import ADMIN_EMAIL
from tests.services.waiting import wait_until

# -- Redis -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(redis_url):
    """The session's Redis, empty, and afterwards as it was."""
    names = ("appendonly", "maxmemory", "maxmemory-policy", "requirepass")
    with connect_redis(read_settings({"REDIS_URL": redis_url})) as client:
        client.flushall()
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)
        client.delete("padding")


@pytest.fixture
def patient(redis_url, client):
    with Patient(read_settings({"REDIS_URL": redis_url})) as patient:
        yield patient


def test_redis_is_named_with_its_version(patient, client, redis_url):
    assert check_redis(patient) == ok("redis", f"Redis {client.info()['redis_version']} answers at {redis_url}")


def test_a_redis_that_forgets_is_a_warning_until_its_remedy_is_applied(patient, client):
    before = check_redis_durability(patient)
    client.config_set("appendonly", "yes")  # what the remedy says

    assert before.status == "warning"
    assert "redis-cli config set appendonly yes" in before.remedy
    assert check_redis_durability(patient).status == "ok"


def test_a_redis_that_deletes_jobs_is_a_problem_until_its_remedy_is_applied(patient, client):
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")

    before = check_redis_memory(patient)
    client.config_set("maxmemory-policy", "noeviction")

    assert (before.status, before.message) == ("problem", "maxmemory-policy is allkeys-lru")
    assert "maxmemory-policy noeviction" in before.remedy
    assert check_redis_memory(patient).status == "ok"


def test_a_full_redis_is_a_problem(patient, client):
    client.setrange("padding", 50_000_000, "x")  # beside it the buffers of clients, which come and go, are nothing
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))

    assert "new jobs are refused" in check_redis_memory(patient).message


def test_a_redis_that_wants_a_password_is_told_apart_from_one_that_is_away(redis_url, client):
    client.config_set("requirepass", "hush")

    with Patient(read_settings({"REDIS_URL": redis_url})) as stranger:
        check = check_redis(stranger)

    assert check.status == "problem"
    assert "refuses us" in check.message
    assert "user and password" in check.remedy
    assert "hush" not in str(check)


def test_the_crew_needs_a_worker_and_a_writer(patient, client):
    beats = [Heartbeat(client, "worker-1@here", lambda: {"role": "predict", "model": "tiny-shapes-1", "device": "cpu"})]
    nobody = check_crew(patient)
    beats[0].start()
    wait_until(lambda: len(alive(client)) == 1, "the worker's heartbeat")
    lonely = check_crew(patient)
    beats.append(Heartbeat(client, "writer-2@here", lambda: {"role": "write", "label_studio": ""}))
    beats[1].start()
    wait_until(lambda: len(alive(client)) == 2, "the writer's heartbeat")
    complete = check_crew(patient)
    for beat in beats:
        beat.stop()

    assert nobody.status == lonely.status == "problem"
    assert "no worker is alive" in nobody.message
    assert lonely.message == "no writer is alive: found boxes do not reach Label Studio"
    assert complete == ok("crew", "alive: worker-1@here (tiny-shapes-1 on cpu), writer-2@here")


def test_a_crew_with_other_settings_is_told(patient, client):
    beats = [Heartbeat(client, "worker-1@here", lambda: {"role": "predict", "model": "swin-t-1", "device": "cpu"}),
             Heartbeat(client, "writer-2@here", lambda: {"role": "write", "label_studio": ""})]  # fmt: skip
    for beat in beats:
        beat.start()
    wait_until(lambda: len(alive(client)) == 2, "both heartbeats")

    check = check_crew(patient)
    for beat in beats:
        beat.stop()

    assert check.status == "warning"
    assert "the worker's model is swin-t-1, here it is tiny-shapes-1" in check.message


# -- Label Studio ------------------------------------------------------------------------------------------------------


@pytest.fixture
def examine(label_studio_server, label_studio_token, crew):
    """Runs one check with the session's Label Studio and crew, and another token if one is given."""

    def run(check, token=label_studio_token):
        settings = read_settings({"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": token},
                                 api_port=int(crew.url.rpartition(":")[2]))  # fmt: skip
        with Patient(settings) as patient:
            return check(patient)

    return run


@pytest.fixture
def admin(label_studio_server, label_studio_token):
    """The administrator's session; legacy tokens are off again afterwards, as they are by default."""
    with requests.Session() as session:
        session.auth = PersonalToken(label_studio_server.url, label_studio_token)
        yield session
        set_legacy_tokens(session, label_studio_server.url, enabled=False)


def set_legacy_tokens(session, url, *, enabled):
    body = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": enabled}
    session.post(f"{url}/api/jwt/settings", json=body, timeout=30).raise_for_status()


def test_the_release_is_read_without_a_token(examine, label_studio_server):
    assert examine(check_label_studio, token="") == ok(
        "label_studio", f"Label Studio 1.23.2 answers at {label_studio_server.url}"
    )


def test_a_personal_access_token_is_accepted(examine):
    assert examine(check_token) == ok("token", f"personal access token of {ADMIN_EMAIL}")


def test_an_access_token_pasted_instead_is_a_problem(examine, label_studio_server, label_studio_token):
    answer = requests.post(
        f"{label_studio_server.url}/api/token/refresh/", json={"refresh": label_studio_token}, timeout=30
    )

    check = examine(check_token, token=answer.json()["access"])

    assert check.status == "problem"
    assert "is an access token, which expires in" in check.message


def test_a_legacy_token_is_refused_until_an_owner_turns_it_on(examine, label_studio_server, admin):
    token = admin.get(f"{label_studio_server.url}/api/current-user/token", timeout=30).json()["token"]

    before = examine(check_token, token)
    set_legacy_tokens(admin, label_studio_server.url, enabled=True)

    assert before.message == "this is a legacy token, and Label Studio has legacy tokens turned off"
    assert examine(check_token, token) == ok("token", f"legacy token of {ADMIN_EMAIL}")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("f" * 40, "Label Studio does not know this token (401: Invalid token.)"),
        ("not.a.token", "Label Studio does not know this token (401: Invalid token.)"),
    ],
)
def test_a_wrong_token_is_a_problem(examine, token, said):
    assert examine(check_token, token).message == said


def test_a_project_that_is_connected_and_tells_us(examine, label_studio, crew, make_project):
    project = make_project(make_label_config())
    label_studio.connect_backend(project, crew.url, title="crew")

    assert examine(check_connection) == ok("connection", f"connected: project {project} (test project 0)")
    assert examine(check_webhooks) == ok("webhooks", f"tells of new tasks: project {project} (test project 0)")
    assert examine(check_labels).status == "ok"


def test_a_backend_of_another_program_is_left_out(examine, label_studio, stub_backend, make_project):
    label_studio.connect_backend(make_project(make_label_config()), stub_backend.url, title="stub")

    check = examine(check_connection)

    assert (check.status, check.message) == ("warning", "no project is connected to this backend")
    assert examine(check_webhooks) == skipped("webhooks", "needs a connected project")


def test_a_webhook_that_was_deleted_is_missed(examine, label_studio_server, label_studio, crew, make_project, admin):
    project = make_project(make_label_config())
    label_studio.connect_backend(project, crew.url, title="crew")
    for hook in admin.get(f"{label_studio_server.url}/api/webhooks/?project={project}", timeout=30).json():
        admin.delete(f"{label_studio_server.url}/api/webhooks/{hook['id']}/", timeout=30).raise_for_status()

    check = examine(check_webhooks)

    assert check.status == "problem"
    assert f"no active webhook to {crew.url}/webhook" in check.message


# -- the command -------------------------------------------------------------------------------------------------------


def run_doctor(crew, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in the folder where `groundcrew up` runs."""
    return subprocess.run([sys.executable, "-m", "groundcrew", "doctor", *arguments], cwd=crew.folder,
                          env=bare_environment(environment), capture_output=True, text=True, timeout=300)  # fmt: skip


def test_a_healthy_system_is_fine_and_ends_with_0(
    label_studio_server, label_studio_token, label_studio, crew, make_project
):
    label_studio.connect_backend(make_project(make_label_config()), crew.url, title="crew")

    settings = {"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token}
    ended = run_doctor(crew, "--json", **settings)

    answer = json.loads(ended.stdout)
    faults = [check for check in answer["checks"] if check["status"] != "ok"]
    assert (ended.returncode, answer["ok"], faults) == (0, True, []), ended.stderr
    assert label_studio_token not in ended.stdout + ended.stderr


def test_a_fault_is_told_with_its_remedy_and_ends_with_1(label_studio_server, crew):
    ended = run_doctor(crew, LABEL_STUDIO_URL=label_studio_server.url, LABEL_STUDIO_API_KEY="f" * 40)

    assert ended.returncode == 1, ended.stdout
    assert "problem  token            Label Studio does not know this token" in ended.stdout
    assert "-> In Label Studio open Account & Settings > Personal Access Token" in ended.stdout
