"""Lets the older template's start command serve us: `label-studio-ml start backend --with config_file=... --port 8003`.

Called by: label-studio-ml (1.x and 2.x), as `python backend/_wsgi.py --with key=value ... --port P`.
Must not import: anything outside the standard library; it runs in that tool's environment, which cannot hold ours.
Example: python backend/_wsgi.py --with device=cpu --port 8003
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

#: Settings that name files. The two tuples are those of contract/settings.py; a test compares them.
PATH_SETTINGS = (
    "checkpoint_file", "lang_model", "model_dir", "model_cache_dir", "label_studio_data_dir", "local_files_root",
    "prompt_map_file", "alive_file",
)  # fmt: skip
OTHER_SETTINGS = (
    "label_studio_url", "label_studio_api_key", "redis_url", "queue_limit", "max_waiting_per_project", "queue_shards",
    "config_file", "device", "torch_threads", "precision", "score_threshold", "nms_iou", "tile_size_px", "tile_overlap",
    "tile_whole_image", "predict_wait_s", "sync_wait_s", "predict_new_tasks", "failed_memory_s", "batch_size",
    "worker_threads", "interactive_threads", "writer_batch_size", "image_timeout_s", "image_limit_bytes",
    "image_limit_px", "detect_timeout_s", "basic_auth_user", "basic_auth_pass", "webhook_secret", "log_level",
    "finetune_after", "finetune_debounce_s", "repredict", "image_schemes", "image_hosts", "image_private_hosts",
    "api_token", "gpu_sharing", "notify_url", "notify_secret", "notify_after_jobs", "otel_exporter_otlp_endpoint",
    "log_format",
)  # fmt: skip
#: Other names of the same settings; `hostname` and `access_token` are the older template's own.
ALIASES = {
    "label_studio_host": "label_studio_url",
    "hostname": "label_studio_url",
    "label_studio_access_token": "label_studio_api_key",
    "access_token": "label_studio_api_key",
    "local_files_document_root": "local_files_root",
    "label_studio_local_files_document_root": "local_files_root",
}

#: Found without importing them: what `groundcrew up` cannot start without.
_NEEDED_MODULES = ("groundcrew", "typer", "flask", "celery", "mmdet", "torch")


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of the template's own `_wsgi.py`, of 1.x and 2.x. Exits with 2 and a sentence on anything else."""
    parser = argparse.ArgumentParser(prog="_wsgi.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", help="address to listen on; 127.0.0.1 unless given")
    parser.add_argument("--with", "--kwargs", dest="pairs", metavar="KEY=VALUE", nargs="+", default=[], type=_read_pair)
    parser.add_argument("-d", "--debug", action="store_true", help="the same as --log-level DEBUG")
    parser.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--model-dir", help="folder of the model versions")
    parser.add_argument("--basic-auth-user")
    parser.add_argument("--basic-auth-pass")
    parser.add_argument("--check", action="store_true", help="accepted; the model is always checked before serving")
    return parser.parse_args(arguments)


def read_settings(flags: argparse.Namespace, working_dir: Path) -> dict[str, str]:
    """Environment variables for `groundcrew up`: `--with` pairs first, then the flags that are settings too.

    Relative paths become absolute, seen from `working_dir`.
    """
    settings = dict(flags.pairs)
    given = {
        "log_level": "DEBUG" if flags.debug else flags.log_level,
        "model_dir": flags.model_dir,
        "basic_auth_user": flags.basic_auth_user,
        "basic_auth_pass": flags.basic_auth_pass,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    return {name.upper(): _absolute(name, value, working_dir) for name, value in settings.items()}


def merge_environment(environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """`environment` with `settings` in it, and without other spellings of the same settings, which might win."""
    kept = {name: value for name, value in environment.items() if _canonical(name).upper() not in settings}
    return kept | dict(settings)


def command_line(python: str, flags: argparse.Namespace) -> list[str]:
    host = ["--host", flags.host] if flags.host else []
    return [python, "-m", "groundcrew", "up", "--port", str(flags.port), *host]


def find_python(repository: Path, needed_modules: Sequence[str] = _NEEDED_MODULES) -> str | None:
    """The Python that can run `groundcrew up`: this one, or that of the virtual environment `make install` makes."""
    if all(importlib.util.find_spec(module) for module in needed_modules):
        return sys.executable
    candidate = repository / ".venv" / "bin" / "python"
    return str(candidate) if candidate.exists() else None


def main(arguments: Sequence[str]) -> None:
    """Becomes `groundcrew up`: same process, so that Ctrl-C and the exit code are its own."""
    flags = read_arguments(arguments)
    settings = read_settings(flags, Path.cwd())
    python = find_python(REPOSITORY)
    if python is None:
        sys.exit(f"Groundcrew is not installed: run `make install` in {REPOSITORY}, then start this command again.")
    command = command_line(python, flags)
    os.execve(command[0], command, merge_environment(os.environ, settings))  # noqa: S606


def _read_pair(text: str) -> tuple[str, str]:
    """`config_file=a.py` -> ("config_file", "a.py"). Raises ArgumentTypeError, which argparse prints."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    known = PATH_SETTINGS + OTHER_SETTINGS
    name = _canonical(key)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
        raise argparse.ArgumentTypeError(f"'{key}' is not a setting of Groundcrew; {hint}")
    return name, value


def _canonical(name: str) -> str:
    return ALIASES.get(name.lower(), name.lower())


def _absolute(name: str, value: str, working_dir: Path) -> str:
    # CONFIG_FILE may also be the bare name of a config inside mmdet, so only an existing file is taken for a path.
    is_path = name in PATH_SETTINGS or (name == "config_file" and (working_dir / value).exists())
    is_url = "://" in value  # MODEL_DIR may be s3://...
    return str((working_dir / value).absolute()) if is_path and value and not is_url else value


if __name__ == "__main__":
    main(sys.argv[1:])
