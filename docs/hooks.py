"""Reference pages that the code itself writes at each build: settings, commands, exit codes, messages, HTTP, metrics.

Called by: mkdocs, through mkdocs.yml. Must not import: torch, worker.
A page that is written by hand drifts from the code; one of these cannot.
Example: `mkdocs build --strict`
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from contract import jobs, meters
from contract.jobs import Message
from contract.settings import SECRETS, Settings
from groundcrew.cli import SECTIONS, cli
from groundcrew.exit_codes import ExitCode
from groundcrew.options import default_of, flag_of, section_of

DOCS = Path(__file__).resolve().parent
ORDER = ("get", "post", "put", "patch", "delete")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "settings": write_settings, "cli": write_cli, "exit-codes": write_exit_codes, "messages": write_messages,
        "http-api": write_http_api, "metrics": write_metrics,
    }  # fmt: skip
    for name, write in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(write()) + "\n"))
    return files


def write_settings() -> Iterator[str]:
    yield from _title("Settings", "Each setting is an environment variable and a flag of `groundcrew up`; a flag wins, "
                      "and an empty variable counts as unset. Names are case-insensitive.")  # fmt: skip
    for section, names in groupby(Settings.model_fields, key=section_of):
        yield from ("", f"## {section}", "", "| variable | flag | meaning | default |", "|---|---|---|---|")
        for name in names:
            field = Settings.model_fields[name]
            yield _row(f"`{name.upper()}`", f"`{flag_of(name)}`", field.description, _code(default_of(field)))
    yield from ("", "## Secrets in files", "",
                f"{', '.join(f'`{name.upper()}`' for name in SECRETS)} may also come from a file: put `_FILE` behind "
                "the name and give its path, as containers do.")  # fmt: skip


def write_cli() -> Iterator[str]:
    yield from _title("Command line", "What `--help` says. Results go to standard output, everything else to standard "
                      "error; `--json` makes the results JSON, `--debug` shows tracebacks. What a command ends with "
                      "is on the page of [exit codes](exit-codes.md).")  # fmt: skip
    for heading, names in SECTIONS.items():
        yield from ("", f"## {heading}")
        for name in names:
            yield from _command(cli.commands[name], f"groundcrew {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from _command(part, f"{path} {name}")
        return
    context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
    yield from ("", f"### {path}", "", "```text", command.get_help(context), "```")


def write_exit_codes() -> Iterator[str]:
    yield from _title("Exit codes", "What `groundcrew` ends with, so that scripts can tell what to do next.")
    yield from ("", "| code | meaning |", "|---|---|")
    for code in ExitCode:
        yield _row(f"`{int(code)}`", code.meaning)
    yield from ("", "`doctor` ends with 1 where it found a problem, `demo` where a box is missing or twice there, "
                "`finetune` where the job failed or was cancelled; a version that was refused is 0.", "",
                "Every error is one sentence on standard error, after its code: `groundcrew: CODE: SENTENCE`. The "
                "codes are those of `contract/errors.py`, the same as in the HTTP API and in job records.")  # fmt: skip


def write_messages() -> Iterator[str]:
    yield from _title("Messages", "What API, workers and writer send each other through Redis: JSON, one object a "
                      "message, without what equals its default. A message of an older release loads for ever "
                      "(`tests/golden/`).")  # fmt: skip
    shown = [kind for _, kind in inspect.getmembers(jobs, inspect.isclass) if _is_documented(kind)]
    for kind in sorted(shown, key=lambda kind: not issubclass(kind, Message)):
        task = f"Celery task `{kind.name}`. " if issubclass(kind, Message) else ""
        yield from ("", f"## {kind.__name__}", "", f"{task}{inspect.getdoc(kind)}", "", "| field | type | meaning |",
                    "|---|---|---|")  # fmt: skip
        for name, type_name, meaning in _fields_of(kind):
            yield _row(f"`{name}`", f"`{type_name}`", meaning)


def _is_documented(kind: type) -> bool:
    return issubclass(kind, BaseModel) and kind.__module__ == jobs.__name__ and kind is not Message


def _fields_of(kind: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Name, type and `#:` comment of each field, as written in the source."""
    for line in inspect.getsource(kind).splitlines():
        found = re.match(r"    (\w+): ([^=#]+?)(?: = .*?)?(?:\s+#: (.*))?$", line)
        if found and found[1] in kind.model_fields:
            yield found[1], found[2].strip(), found[3] or ""


def write_http_api() -> Iterator[str]:
    yield from _title("HTTP API", "What the API answers, for Label Studio and for you. The same as "
                      "[OpenAPI](#openapi) for programs: `docs/openapi.yaml`.")  # fmt: skip
    source = DOCS / "openapi.yaml"
    described = yaml.safe_load(source.read_text(encoding="utf-8")) if source.exists() else {"paths": {}}
    yield from ("", "| route | what for | answers |", "|---|---|---|")
    for path, methods in described["paths"].items():
        for method in ORDER:
            if method in methods:
                facts = methods[method]
                codes = ", ".join(f"`{code}`" for code in facts.get("responses", {}))
                yield _row(f"`{method.upper()} {path}`", facts.get("summary", ""), codes)
    yield from ("", "## OpenAPI", "", "The full description with all fields is `docs/openapi.yaml` in the repository; "
                "a test compares it with the routes of the running API.")  # fmt: skip


def write_metrics() -> Iterator[str]:
    yield from _title("Metrics", "Prometheus reads them from `GET /metrics` of any API process; they are sums over "
                      "all workers.")  # fmt: skip
    yield from ("", "| metric | kind | labels | meaning |", "|---|---|---|---|")
    for kind, metrics in (("counter", meters.COUNTERS), ("histogram", meters.HISTOGRAMS)):
        for metric in metrics:
            yield _row(f"`{metric.name}`", kind, ", ".join(f"`{label}`" for label in metric.labels), metric.text)
    for name, text, labels in _gauges():
        yield _row(f"`groundcrew_{name}`", "gauge", ", ".join(f"`{label}`" for label in labels), text)


def _gauges() -> Iterator[tuple[str, str, list[str]]]:
    """(name, text, labels) of each gauge in backend/gauges.py; they exist only while a scrape collects them."""
    source = (DOCS.parent / "backend" / "gauges.py").read_text(encoding="utf-8")
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("_family", "_gauge"):
            written = [part.value for part in call.args if isinstance(part, ast.Constant)]
            labels = [part for part in call.args if isinstance(part, ast.List)]
            if len(written) > 1 and isinstance(written[1], str):
                yield written[0], written[1], [str(label.value) for label in (labels[0].elts if labels else [])]


def _title(title: str, lead: str) -> tuple[str, ...]:
    return (f"# {title}", "", lead)


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell or "").replace("|", r"\|") for cell in cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
