"""Whatever keeps Label Studio from reaching us is told apart, and our projects from those of others.

Called by: pytest.
Must not import: torch.
Example: .venv/bin/python -m pytest tests/unit/doctor/test_doctor_connection.py
"""

import pytest

from groundcrew.checks.check import ok, skipped
from groundcrew.checks.connection import check_connection, check_webhooks, is_local
from groundcrew.checks.label_studio import check_label_studio, check_token
from groundcrew.child import free_port
from tests.fakes.stub_backend import StubBackend


def test_label_studio_is_named_with_its_release(patient, label_studio):
    check = check_label_studio(patient())

    assert check == ok("label_studio", f"Label Studio 1.23.2 answers at {label_studio.url}")


def test_a_label_studio_that_is_away_is_a_problem_and_its_token_is_not_judged(patient):
    made = patient(label_studio_url=f"http://127.0.0.1:{free_port()}")

    assert check_label_studio(made).status == "problem"
    assert check_token(made) == skipped("token", "needs a Label Studio that answers")


def test_something_else_at_its_address_is_told(patient, api):
    check = check_label_studio(patient(label_studio_url=api.url))

    assert (check.status, check.remedy) == ("problem", "Correct LABEL_STUDIO_URL.")


def test_a_connected_project_is_fine(patient, label_studio, api):
    label_studio.add_project(api.url)

    made = patient()

    assert check_connection(made) == ok("connection", "connected: project 1 (Street)")
    assert check_webhooks(made) == ok("webhooks", "tells of new tasks: project 1 (Street)")


def test_no_connected_project_is_a_warning_with_address_and_guards(patient, api):
    check = check_connection(patient())

    assert check.status == "warning"
    assert f"Connect Model and enter {api.url}" in check.remedy
    assert "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false" in check.remedy
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in check.remedy


def test_a_local_backend_that_answers_here_but_not_to_label_studio_is_blocked_by_its_guards(patient, label_studio, api):
    label_studio.add_project(api.url, state="DI")

    check = check_connection(patient())

    assert check.status == "problem"
    assert "answers here but not to Label Studio" in check.message
    assert "ML_BLOCK_LOCAL_IP=false" in check.remedy


def test_a_backend_where_nobody_answers_is_not_blamed_on_guards(patient, label_studio):
    port = free_port()
    label_studio.add_project(f"http://127.0.0.1:{port}", state="DI")

    check = check_connection(patient(api_port=port))

    assert check.status == "problem"
    assert "where nobody answers" in check.message
    assert "groundcrew up" in check.remedy


def test_a_backend_connected_without_our_basic_auth_is_told(patient, label_studio, api):
    label_studio.add_project(api.url, state="ER")

    check = check_connection(patient(basic_auth_user="crew", basic_auth_pass="s3cret-pass"))

    assert "without Basic authentication" in check.message


def test_label_studios_own_reason_is_shown(patient, label_studio, api):
    label_studio.add_project(api.url, state="ER", error_message="HTTPError: 400 label_config has no RectangleLabels")

    check = check_connection(patient())

    assert "400 label_config has no RectangleLabels" in check.message


def test_backends_of_other_programs_are_none_of_our_business(patient, label_studio):
    with StubBackend.start() as other:
        label_studio.add_project(other.url, state="ER")

        check = check_connection(patient())

    assert (check.status, check.message) == ("warning", "no project is connected to this backend")


def test_one_bad_project_among_good_ones_is_found(patient, label_studio, api):
    label_studio.add_project(api.url)
    label_studio.add_project(api.url, state="DI", title="Harbour")

    check = check_connection(patient())

    assert check.status == "problem"
    assert "project 2 (Harbour)" in check.message


def test_a_missing_webhook_of_a_local_backend_is_the_second_guard(patient, label_studio, api):
    label_studio.add_project(api.url)
    label_studio.webhooks[1] = []

    check = check_webhooks(patient())

    assert check.status == "problem"
    assert "new tasks are not noticed" in check.message
    assert "SSRF_PROTECTION_ENABLED=false" in check.remedy


def test_a_docker_service_name_without_a_dot_gets_no_webhook(patient, label_studio, api):
    # nobody answers at such a name outside its network: the port says that it is ours
    label_studio.add_project(f"http://ml-backend:{api.url.rpartition(':')[2]}")
    label_studio.webhooks[1] = []

    check = check_webhooks(patient())

    assert check.status == "problem"
    assert 'no webhook for a host name without a dot: connect "ml-backend"' in check.remedy


def test_a_webhook_that_is_switched_off_counts_as_none(patient, label_studio, api):
    label_studio.add_project(api.url)
    label_studio.webhooks[1][0]["is_active"] = False

    assert check_webhooks(patient()).status == "problem"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/webhook", {}, "problem"),
        ("/webhook/hush-hush", {}, "ok"),
        ("/webhook", {"X-Groundcrew-Secret": "hush-hush"}, "ok"),
    ],
)
def test_a_webhook_must_carry_the_secret(patient, label_studio, api, path, headers, status):
    label_studio.add_project(api.url)
    label_studio.webhooks[1] = [{"url": api.url + path, "is_active": True, "headers": headers}]

    check = check_webhooks(patient(webhook_secret="hush-hush"))

    assert check.status == status
    assert "hush-hush" not in str(check)


def test_a_project_whose_backends_label_studio_fails_to_list_is_named(patient, label_studio, api):
    label_studio.add_project(api.url)
    label_studio.add_project(api.url, title="Harbour")
    label_studio.backends[2] = "broken"

    check = check_connection(patient())

    assert check.status == "warning"
    assert "project 2 (Harbour): Label Studio answered 500" in check.message


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:9090", True), ("http://localhost:9090", True), ("http://10.1.2.3", True),
        ("http://172.20.0.5:9090", True), ("http://[::1]:9090", True), ("http://ml-backend:9090", True),
        ("http://8.8.8.8:9090", False),
    ],
)  # fmt: skip
def test_addresses_that_label_studio_refuses_by_default(url, local):
    assert is_local(url) is local
