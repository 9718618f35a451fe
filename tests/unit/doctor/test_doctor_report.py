"""The doctor runs every check, prints each with its remedy, and never shows a secret.

Called by: pytest.
Must not import: torch.
Example: .venv/bin/python -m pytest tests/unit/doctor/test_doctor_report.py
"""

import json

import pytest

from contract.errors import SettingsError
from groundcrew.checks.check import ok, problem, skipped, warning, worst
from groundcrew.checks.crew import check_api, check_crew
from groundcrew.checks.label_studio import check_token
from groundcrew.checks.labels import check_labels
from groundcrew.checks.model import check_device, check_model, check_settings
from groundcrew.checks.queue import check_redis, check_redis_durability, hide_password
from groundcrew.child import free_port
from groundcrew.doctor import CHECKS, examine, run_doctor
from tests.fakes.label_studio import LABEL_CONFIG


def test_labels_that_read_well(patient, label_studio, api):
    label_studio.add_project(api.url)

    assert check_labels(patient()) == ok("labels", "1 label of project 1 (Street) reads well")


def test_prompts_that_will_not_be_found_are_a_warning(patient, label_studio, api):
    label_studio.add_project(api.url, label_config=LABEL_CONFIG.replace("circle", "红绿灯"))

    check = check_labels(patient())

    assert check.status == "warning"
    assert "红绿灯" in check.message
    assert "PROMPT_MAP_FILE" in check.message + check.remedy


def test_a_label_config_that_cannot_be_used_is_a_problem(patient, label_studio, api):
    label_studio.add_project(api.url, label_config="<View/>")

    check = check_labels(patient())

    assert check.status == "problem"
    assert "has no RectangleLabels" in check.message


def test_files_that_settings_name_are_looked_at(patient, tmp_path):
    broken = tmp_path / "words.txt"
    broken.write_text("no equals sign")

    assert check_settings(patient()).status == "ok"
    assert "prompt map, line 1" in check_settings(patient(prompt_map_file=broken)).message
    assert "cannot be read" in check_settings(patient(prompt_map_file=tmp_path / "none")).message
    assert "LOCAL_FILES_ROOT" in check_settings(patient(local_files_root=tmp_path / "none")).message


def test_a_redis_that_is_away_is_a_problem_and_what_needs_it_is_skipped(patient):
    made = patient()

    assert check_redis(made).status == "problem"
    assert check_redis_durability(made).status == check_crew(made).status == "skipped"


def test_an_address_that_is_none_is_told(patient):
    assert "no address" in check_redis(patient(redis_url="redis://somewhere:port")).message


def test_passwords_of_addresses_are_hidden():
    assert hide_password("redis://crew:hush@redis.example.org:6379/0") == "redis://redis.example.org:6379/0"
    assert hide_password("redis://:hush@host/0") == "redis://host/0"


def test_the_api_answers(patient, api):
    assert check_api(patient()) == ok("api", f"answers at {api.url}, 3 jobs are open")


def test_an_api_that_is_away_and_another_program_on_its_port_are_told_apart(patient, label_studio):
    nobody = check_api(patient(api_port=free_port()))
    other = check_api(patient(api_port=label_studio.url.rpartition(":")[2]))

    assert "nothing answers" in nobody.message
    assert "another program" in other.message
    assert nobody.status == other.status == "problem"


def test_the_worst_check_wins():
    checks = [ok("a", ""), warning("b", "", "r"), problem("c", "", "r"), problem("d", "", "r"), skipped("e", "")]

    assert worst(checks).name == "c"


def test_settings_that_cannot_be_read_are_reported_as_json_too(capsys):
    code = run_doctor(SettingsError("API_PORT: Input should be a valid integer"), as_json=True)

    assert code == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "checks": [
            {"name": "settings", "status": "problem", "message": "API_PORT: Input should be a valid integer",
             "remedy": "Correct that setting."}
        ],
    }  # fmt: skip


#: Every check but those that import torch.
LIGHT_CHECKS = [check for check in CHECKS if check not in (check_model, check_device)]
SECRETS = {"basic_auth_user": "crew", "basic_auth_pass": "s3cret-pass", "webhook_secret": "hush-hush"}


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_is_ever_printed(settings, label_studio, api, capsys, as_json):
    label_studio.add_project(api.url, state="DI")
    label_studio.add_project(api.url)
    label_studio.webhooks[2][0]["url"] += "/hush-hush"
    redis_url = f"redis://crew:redis-pass@127.0.0.1:{free_port()}/0"
    tokens = [label_studio.personal_token, label_studio.access_token, label_studio.legacy_token, "bad\ntoken-123"]

    for token in tokens:
        made = settings(**SECRETS, label_studio_api_key=token, redis_url=redis_url)
        assert run_doctor(made, as_json=as_json, checks=LIGHT_CHECKS) == 1

    said = capsys.readouterr()
    for secret in [*tokens, "token-123", "s3cret-pass", "hush-hush", "redis-pass"]:
        assert secret not in said.out + said.err


def test_all_checks_run_although_one_fails_in_an_unforeseen_way(patient):
    def check_surprise(_):
        raise KeyError("http://crew:redis-pass@somewhere")

    found = list(examine(patient(), [check_surprise, check_api]))

    assert [check.name for check in found] == ["surprise", "api"]
    assert (found[0].status, found[0].message) == ("problem", "could not be examined: KeyError")


def test_each_finding_is_one_object_of_the_json(settings, capsys):
    code = run_doctor(settings(), as_json=True, checks=LIGHT_CHECKS)

    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    assert answer["ok"] is False
    assert {check["name"]: check["status"] for check in answer["checks"]} == {
        "settings": "ok", "redis": "problem", "redis_durability": "skipped", "redis_memory": "skipped",
        "crew": "skipped", "api": "ok", "label_studio": "ok", "token": "ok", "connection": "warning",
        "webhooks": "skipped", "registry": "ok", "labels": "skipped",
    }  # fmt: skip
    assert all(check["remedy"] for check in answer["checks"] if check["status"] in ("problem", "warning"))


def test_warnings_alone_end_with_0(settings, capsys):
    code = run_doctor(settings(label_studio_api_key=""), as_json=False, checks=[check_api, check_token])

    assert code == 0
    said = capsys.readouterr().out
    assert "-> In Label Studio open Account & Settings" in said
    assert said.endswith("0 problems, 1 warning.\n")
