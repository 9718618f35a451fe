"""Each kind of token is recognized, and each fault of one comes with the remedy that ends it.

Called by: pytest.
Must not import: torch.
Example: .venv/bin/python -m pytest tests/unit/doctor/test_doctor_token.py
"""

import pytest

from groundcrew.checks.access import Access, find_access, kind_of
from groundcrew.checks.check import ok
from groundcrew.checks.label_studio import check_token, judge_access
from tests.fakes.label_studio import OWNER, make_jwt


def test_the_kind_of_a_token_shows_in_its_form():
    assert kind_of(make_jwt("refresh", lives_s=60)) == "personal"
    assert kind_of(make_jwt("access", lives_s=60)) == "access"
    assert kind_of("5cc2214442b9bee2fba1d703fa96c38d923e924c") == "legacy"
    assert kind_of("my.own.token") == "legacy"
    assert kind_of("copied with\na line break") == kind_of("tökén") == "malformed"


def test_a_personal_access_token_is_exchanged_and_accepted(patient):
    check = check_token(patient())

    assert check == ok("token", f"personal access token of {OWNER}")


def test_a_revoked_personal_access_token_is_a_problem(patient):
    check = check_token(patient(label_studio_api_key=make_jwt("refresh", lives_s=10**9, number=2)))

    assert check.status == "problem"
    assert "revoked, or belongs to another Label Studio (401: Token is invalid)" in check.message
    assert "Account & Settings > Personal Access Token" in check.remedy


def test_an_access_token_is_a_problem_even_while_it_is_accepted(patient, label_studio):
    check = check_token(patient(label_studio_api_key=label_studio.access_token))

    assert check.status == "problem"
    assert "is an access token, which expires in 2" in check.message or "300 s" in check.message
    assert "Personal Access Token" in check.remedy


def test_a_legacy_token_is_refused_by_default_and_the_switch_is_named(patient, label_studio):
    check = check_token(patient(label_studio_api_key=label_studio.legacy_token))

    assert (check.status, check.message) == (
        "problem", "this is a legacy token, and Label Studio has legacy tokens turned off",
    )  # fmt: skip
    assert "Organization > API Tokens Settings" in check.remedy


def test_a_legacy_token_is_fine_where_it_is_turned_on(patient, label_studio):
    label_studio.legacy_enabled = True

    check = check_token(patient(label_studio_api_key=label_studio.legacy_token))

    assert check == ok("token", f"legacy token of {OWNER}")


def test_a_token_that_label_studio_does_not_know_is_told_apart_from_one_that_is_turned_off(patient):
    check = check_token(patient(label_studio_api_key="f" * 40))

    assert (check.status, check.message) == ("problem", "Label Studio does not know this token (401: Invalid token.)")


def test_a_token_with_a_line_break_is_never_sent(patient, label_studio):
    check = check_token(patient(label_studio_api_key=label_studio.personal_token + "\n"))

    assert check.status == "problem"
    assert "spaces, line breaks" in check.message


def test_no_token_is_a_warning_that_says_what_will_not_work(patient):
    check = check_token(patient(label_studio_api_key=""))

    assert check.status == "warning"
    assert "boxes reach a task only when someone opens it" in check.message
    assert "LABEL_STUDIO_API_KEY" in check.remedy


@pytest.mark.parametrize(
    ("left_s", "status", "said"),
    [
        (-1, "problem", "this personal access token has expired"),
        (3 * 86400, "warning", "which expires in 3.0 days"),
        (30 * 86400, "ok", f"personal access token of {OWNER}"),
    ],
)
def test_a_personal_access_token_is_told_before_it_expires(left_s, status, said):
    access = Access("personal", accepted=left_s > 0, headers={}, user=OWNER, expires_at_s=1000 + left_s)

    check = judge_access(access, now_s=1000)

    assert check.status == status
    assert check.message.endswith(said)


def test_the_header_never_shows_in_a_message_or_a_traceback(label_studio):
    access = find_access(label_studio.url, label_studio.personal_token)

    assert access.headers == {"Authorization": f"Bearer {label_studio.access_token}"}
    assert label_studio.access_token not in repr(access)
