"""The welcome says what to paste, what is missing and what Label Studio needs, and shows no secret.

Called by: pytest.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_welcome.py
"""

from contract.settings import read_settings
from groundcrew.welcome import print_welcome, welcome

MODEL = {"config_file": "grounding_dino_swin-t.py", "checkpoint_file": "swin-t-0123abcd.pth"}


def text(api_url: str = "http://127.0.0.1:9090", **fields: object) -> str:
    return "\n".join(welcome(read_settings({}, **MODEL, **fields), api_url))


def test_it_says_what_to_paste_and_which_model_runs(capsys):
    print_welcome(read_settings({}, **MODEL), "http://127.0.0.1:8003")

    said = capsys.readouterr().out
    assert "Settings > Model > Connect Model" in said
    assert "Backend URL                  http://127.0.0.1:8003\n" in said
    assert "No Authentication" in said
    assert "swin-t-0123abcd" in said
    assert "demo model" not in said


def test_the_tiny_model_is_called_a_demo_model():
    assert "coloured shapes only" in "\n".join(welcome(read_settings({}), "http://127.0.0.1:9090"))


def test_a_local_address_comes_with_the_guards_of_label_studio():
    assert "ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false" in text("http://127.0.0.1:9090")
    assert "ML_BLOCK_LOCAL_IP" not in text("http://8.8.8.8:9090")


def test_what_is_missing_is_named_with_what_will_not_work():
    nothing, address = text(), text(label_studio_url="http://localhost:8080")

    assert "Not set: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY." in nothing
    assert "Not set: LABEL_STUDIO_API_KEY." in address
    assert "Account & Settings > Personal Access Token" in address
    assert "Not set" not in text(label_studio_url="http://localhost:8080", label_studio_api_key="abc")


def test_an_api_that_listens_everywhere_is_given_an_address_that_can_be_pasted():
    said = text("http://0.0.0.0:9090")

    assert "0.0.0.0" not in said
    (line,) = [line for line in said.splitlines() if "Backend URL" in line]
    assert "." in line.rpartition("http://")[2]  # Label Studio makes no webhook for a name without a dot


def test_it_shows_no_secret():
    said = text(basic_auth_user="crew", basic_auth_pass="hush-1", webhook_secret="hush-2",
                label_studio_url="http://localhost:8080", label_studio_api_key="hush-3",
                redis_url="redis://:hush-4@localhost:6379")  # fmt: skip

    assert "Basic Authentication: crew, your BASIC_AUTH_PASS" in said
    assert "http://127.0.0.1:9090/s/<WEBHOOK_SECRET>" in said
    assert "hush" not in said
