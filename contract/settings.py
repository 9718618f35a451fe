"""One frozen Settings object: every variable the system understands, checked once at the edge of each process.

Called by: process entry points, which pass the object on. Must not import: anything of ours but errors and sentinel.
No other module reads os.environ. Names are case-insensitive, so the older template's `config_file=...` works.
Example: `settings = read_settings({"PREDICT_WAIT_S": "2"})`
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from contract.errors import SettingsError
from contract.sentinel import SCHEME as SENTINEL_SCHEME
from contract.sentinel import SentinelAddress


def _strip_slash(value: object) -> object:
    return value.rstrip("/") if isinstance(value, str) else value


SHORTEST_KEY_BYTES = 24  #: what the Standard Webhooks specification asks for
Url = Annotated[str, BeforeValidator(_strip_slash)]


#: Settings that may also come from a file, named by the variable with _FILE behind it
SECRETS = (
    "label_studio_api_key", "label_studio_access_token", "redis_url", "basic_auth_pass", "webhook_secret", "api_token",
    "notify_secret",
)  # fmt: skip


class Settings(BaseModel):
    """All settings, with their defaults. The description of each field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    label_studio_url: Url = Field("", validation_alias=AliasChoices("label_studio_url", "label_studio_host"),
        description="Where Label Studio is reached from the workers, for example http://localhost:8080")  # fmt: skip
    label_studio_api_key: SecretStr = Field(SecretStr(""),
        validation_alias=AliasChoices("label_studio_api_key", "label_studio_access_token"),
        description="Personal access token (or legacy token). Without it nothing can be written back")  # fmt: skip
    label_studio_data_dir: Path | None = Field(None,
        description="Data directory of a Label Studio on this machine, to read uploads without a token")  # fmt: skip
    local_files_root: Path | None = Field(None,
        validation_alias=AliasChoices("local_files_root", "local_files_document_root",
                                      "label_studio_local_files_document_root"),
        description="Root directory for /data/local-files/?d=... read from disk instead of from Label Studio")  # fmt: skip

    redis_url: str = Field("", description="Broker and job records. Without it `groundcrew up` starts its own")
    queue_limit: int = Field(200_000, ge=1, description="Most waiting jobs; beyond it new ones get 503 with Retry-After")
    max_waiting_per_project: int = Field(150_000, ge=1, description="Most waiting jobs of one project, so that others find room; beyond it new ones get 503 with Retry-After")
    queue_shards: int = Field(16, ge=1, le=64, description="Bulk queues that projects are spread over; equal for API and workers")

    config_file: str = Field("", description="mmengine config: a path, or the name of an mm_grounding_dino config in mmdet's wheel. Empty: the tiny model")
    checkpoint_file: Path | None = Field(None, description="Weights that fit CONFIG_FILE: .pth or .safetensors")
    lang_model: Path | None = Field(None, description="Local directory of the BERT that CONFIG_FILE names; nothing is downloaded")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda:0, or auto")
    gpu_sharing: Literal["share", "wait", "refuse"] = Field("share", description="A worker or training that finds every GPU taken: `share` the one with most memory left, `wait` for a free one, or `refuse` to start")
    model_dir: str = Field(".groundcrew/models", description="Registry of model versions: a directory on a shared volume, or an fsspec URL such as s3://bucket/models")
    model_cache_dir: Path = Field(Path(".groundcrew/cache"), description="Where this machine keeps versions of a MODEL_DIR that is a URL")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="How the detector multiplies: bf16 is faster where the processor or GPU has units for it, which auto finds out; fp32 equals mmdet's own results")
    torch_threads: int = Field(0, ge=0, description="CPU threads of a detect call; 0: as many as there are cores")

    score_threshold: float | None = Field(None, ge=0, le=1, description="Boxes below it are dropped. Unset: what the model's card says, else 0.3")
    nms_iou: float | None = Field(None, gt=0, le=1, description="Class-wise non-maximum suppression. Unset: what the model's card says, else 0.7")
    tile_size_px: int = Field(0, ge=0, description="Images with a longer side are looked at in tiles of this size, too; 0: never. A label config's tile=... wins")
    tile_overlap: float = Field(0.2, ge=0, le=0.8, description="Share of a tile that its neighbour sees, too: what is smaller is never cut")
    tile_whole_image: bool = Field(True, description="Beside the tiles look at the whole image, for what is larger than a tile")
    prompt_map_file: Path | None = Field(None, description="Label to English prompt: a JSON object or lines `label = prompt`")

    predict_wait_s: float = Field(5.0, ge=0, le=90, description="How long /predict waits for the boxes of one opened task")
    sync_wait_s: float = Field(80.0, ge=0, le=95, description="How long /predict waits without a token (Label Studio gives up at 100 s)")
    predict_new_tasks: bool = Field(True, description="Predict tasks as they are created, without anyone asking")
    finetune_after: int = Field(0, ge=0, description="New or changed annotations of a project after which a fine-tune starts by itself; 0: never")
    finetune_debounce_s: float = Field(60.0, ge=0, description="How long annotating has to pause before that fine-tune starts")
    repredict: Literal["", "unlabeled"] = Field("", description="After a promotion `unlabeled` predicts tasks without annotations again. Empty: only as they are opened")
    failed_memory_s: int = Field(600, ge=0, description="How long a failed image is answered [] at once instead of being tried again")

    batch_size: int = Field(8, ge=1, le=256, description="Most images in one detect call")
    worker_threads: int = Field(16, ge=1, le=256, description="Bulk jobs one worker handles at once (download, decode, wait)")
    interactive_threads: int = Field(4, ge=1, le=64, description="Interactive jobs one worker handles at once")
    writer_batch_size: int = Field(1000, ge=1, le=1024, description="Most predictions that the writer stores in one POST")
    image_timeout_s: float = Field(30.0, gt=0, description="Longest download of one image")
    image_limit_bytes: int = Field(64 * 1024**2, ge=1024, description="Largest image file")
    image_limit_px: int = Field(64_000_000, ge=1024, description="Most pixels (width x height) of an image")
    image_schemes: str = Field("http,https,data,s3,s3s,gs,gcswif,azure-blob,azure_spi", description="Kinds of image addresses that tasks may hold, beside Label Studio's own paths")
    image_hosts: str = Field("", description="Hosts that images may come from, as in images.example.org, *.example.org; Label Studio always may. Empty: any public host")
    image_private_hosts: str = Field("", description="Private hosts that images may come from, as in minio:9000, 10.1.0.0/16. Empty: only Label Studio")
    detect_timeout_s: float = Field(300.0, gt=0, description="A detect call silent for longer ends the worker, which is started again")

    api_host: str = Field("127.0.0.1", description="Address the API listens on")
    api_port: int = Field(9090, ge=0, le=65535, description="Port the API listens on")
    basic_auth_user: str = Field("", description="With BASIC_AUTH_PASS: every route but /health asks for it")
    basic_auth_pass: SecretStr = Field(SecretStr(""), description="Password of BASIC_AUTH_USER")
    api_token: SecretStr = Field(SecretStr(""), description="For programs: every route but /health takes it as Authorization: Bearer ...")
    webhook_secret: SecretStr = Field(SecretStr(""), description="What webhooks show: header X-Groundcrew-Secret, /webhook/<secret>, or a Backend URL that ends in /s/<secret>")
    notify_url: Url = Field("", description="Where outgoing webhooks are posted: fine-tunes ended, versions promoted or refused, many predictions finished. Empty: none")
    notify_secret: SecretStr = Field(SecretStr(""), description="Key that signs outgoing webhooks, as whsec_<base64> (Standard Webhooks)")
    notify_after_jobs: int = Field(20, ge=1, description="Ended predictions of a project that make a notification, once none of its jobs is open")
    otel_exporter_otlp_endpoint: Url = Field("", description="OpenTelemetry collector (OTLP over HTTP) that traces go to, for example http://localhost:4318. Empty: no traces")
    log_format: Literal["text", "json"] = Field("text", description="`json` writes one object a line, with job, task and project")
    alive_file: Path | None = Field(None, description="Touched with every heartbeat of a worker that reached Redis: what a container's health check looks at")
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")

    @property
    def can_write_back(self) -> bool:
        return bool(self.label_studio_url and self.label_studio_api_key.get_secret_value())

    @property
    def model_dir_is_remote(self) -> bool:
        return "://" in self.model_dir and not self.model_dir.startswith("file://")

    @property
    def local_model_dir(self) -> Path:
        """Where this machine may keep working files beside the versions."""
        return self.model_cache_dir if self.model_dir_is_remote else Path(self.model_dir.removeprefix("file://"))

    @property
    def visibility_timeout_s(self) -> int:
        """At least twice the longest honest job, or Redis hands a running job out a second time."""
        return int(2 * (self.image_timeout_s + 2 * self.detect_timeout_s))


def read_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings from a mapping (os.environ by default); `overrides` (flags) win. Empty values count as unset.

    Raises SettingsError naming the variable.
    """
    source = os.environ if environment is None else environment
    values: dict[str, object] = {name.lower(): value for name, value in source.items() if value != ""}
    values |= {name: value for name, value in overrides.items() if value is not None}
    values |= _read_secret_files(values)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        given = "" if name in SECRETS else f" (got {first['input']!r})"
        raise SettingsError(f"{name.upper()}: {first['msg']}{given}") from None
    _check_together(settings)
    return settings


def _read_secret_files(values: Mapping[str, object]) -> dict[str, object]:
    """The contents of the files that `<NAME>_FILE` variables name, as containers get their secrets."""
    found: dict[str, object] = {}
    for name in SECRETS:
        path = values.get(f"{name}_file")
        if path is not None and name not in values:
            try:
                found[name] = Path(str(path)).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingsError(f"{name.upper()}_FILE: {path} cannot be read: {error.strerror}") from None
    return {name: value for name, value in found.items() if value != ""}


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process these settings."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings
        if value is not None
    }
    return {name.upper(): str(value) for name, value in plain.items() if value != ""}


def _check_together(settings: Settings) -> None:
    if settings.config_file and settings.checkpoint_file is None:
        raise SettingsError("CHECKPOINT_FILE: is missing; CONFIG_FILE alone has no weights")
    if settings.checkpoint_file is not None and not settings.config_file:
        raise SettingsError("CONFIG_FILE: is missing; name the mmengine config that CHECKPOINT_FILE was trained with")
    if settings.redis_url.startswith(SENTINEL_SCHEME):
        SentinelAddress.parse(settings.redis_url)
    elif settings.redis_url and not settings.redis_url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError("REDIS_URL: must begin with redis://, rediss://, sentinel:// or unix://")
    if bool(settings.basic_auth_user) != bool(settings.basic_auth_pass.get_secret_value()):
        raise SettingsError("BASIC_AUTH_PASS: set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither")
    if settings.notify_url:
        _check_notify_secret(settings.notify_secret.get_secret_value())


def _check_notify_secret(secret: str) -> None:
    try:
        enough = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) >= SHORTEST_KEY_BYTES
    except (binascii.Error, ValueError):
        enough = False
    if not enough:
        raise SettingsError("NOTIFY_SECRET: NOTIFY_URL needs a key of at least 24 bytes as whsec_<base64>; "
                            'make one with: echo "whsec_$(openssl rand -base64 32)"')  # fmt: skip
