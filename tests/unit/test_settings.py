"""Settings: names old and new, defaults, and errors that name the variable."""

import pytest

from contract.errors import SettingsError
from contract.settings import Settings, read_settings, to_environment


def test_defaults_need_nothing():
    settings = read_settings({})
    assert (settings.device, settings.predict_new_tasks, settings.can_write_back) == ("auto", True, False)


@pytest.mark.parametrize("name", ["CONFIG_FILE", "config_file", "Config_File"])
def test_the_older_templates_lower_case_names_work(name):
    settings = read_settings({name: "grounding_dino_swin-t", "checkpoint_file": "a.pth", "device": "cpu"})
    assert settings.config_file == "grounding_dino_swin-t"
    assert settings.device == "cpu"


@pytest.mark.parametrize("url", ["LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"])
@pytest.mark.parametrize("key", ["LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"])
def test_aliases_are_equal(url, key):
    settings = read_settings({url: "http://h:8080/", key: "secret"})
    assert settings.label_studio_url == "http://h:8080"
    assert settings.can_write_back


@pytest.mark.parametrize(
    ("name", "value"),
    [("DEVICE", "gpu"), ("PREDICT_WAIT_S", "soon"), ("BATCH_SIZE", "0"), ("NMS_IOU", "2"), ("API_PORT", "99999"),
     ("PREDICT_NEW_TASKS", "perhaps"), ("LOG_LEVEL", "loud")],
)  # fmt: skip
def test_a_bad_value_names_its_variable(name, value):
    with pytest.raises(SettingsError, match=f"^{name}: .*{value}"):
        read_settings({name: value})


def test_settings_that_belong_together_are_checked_together():
    with pytest.raises(SettingsError, match="CHECKPOINT_FILE"):
        read_settings({"CONFIG_FILE": "a.py"})
    with pytest.raises(SettingsError, match="CONFIG_FILE"):
        read_settings({"CHECKPOINT_FILE": "a.pth"})
    with pytest.raises(SettingsError, match="REDIS_URL: must begin with redis://"):
        read_settings({"REDIS_URL": "localhost:6379"})
    with pytest.raises(SettingsError, match="BASIC_AUTH_PASS"):
        read_settings({"BASIC_AUTH_USER": "me"})


def test_an_empty_variable_counts_as_unset_and_a_flag_wins():
    assert read_settings({"DEVICE": "", "API_PORT": "1"}, api_port="2").api_port == 2
    assert read_settings({"DEVICE": ""}).device == "auto"


def test_a_child_process_gets_the_same_settings():
    settings = read_settings({"LABEL_STUDIO_URL": "http://h", "LABEL_STUDIO_API_KEY": "s", "PREDICT_NEW_TASKS": "no",
                              "IMAGE_TIMEOUT_S": "2.5", "MODEL_DIR": "/models"})  # fmt: skip
    assert read_settings(to_environment(settings)) == settings


def test_secrets_are_not_shown():
    shown = repr(read_settings({"LABEL_STUDIO_API_KEY": "s3cret", "WEBHOOK_SECRET": "s3cret"}))
    assert "s3cret" not in shown


def test_every_setting_is_described():
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []


def test_secrets_may_come_from_files(tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    settings = read_settings({"LABEL_STUDIO_API_KEY_FILE": str(tmp_path / "token"), "LABEL_STUDIO_URL": "http://h"})
    assert settings.label_studio_api_key.get_secret_value() == "s3cret"
    with pytest.raises(SettingsError, match=r"WEBHOOK_SECRET_FILE: .*nowhere cannot be read"):
        read_settings({"WEBHOOK_SECRET_FILE": "/nowhere"})


@pytest.mark.parametrize("secret", ["", "whsec_short", "whsec_" + "ä" * 40, "no base64!"])
def test_notifications_are_never_sent_unsigned_or_with_a_weak_key(secret):
    with pytest.raises(SettingsError, match=r"NOTIFY_SECRET: NOTIFY_URL needs a key.*openssl rand"):
        read_settings({"NOTIFY_URL": "http://h/hook", "NOTIFY_SECRET": secret})
