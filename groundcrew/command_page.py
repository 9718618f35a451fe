"""Click commands whose --help reads like a page: commands in groups, settings under headings, --debug everywhere.

Called by: groundcrew.cli. Must not import: backend, worker, rich (a --help stays fast).
Example: `@click.group(cls=Page, sections={"Start": ("demo", "up")}, examples="groundcrew demo")`
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import click

MOST_SUMMARY_CHARS = 160  #: of a command in the list of commands: its first sentence


class SettingOption(click.Option):
    """A setting as a flag. Its section is the heading it stands under."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class PageCommand(click.Command):
    """A command that shows its own options first and the settings below, under headings; it knows --debug."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        own = [param for param in shown if isinstance(param, click.Option) and not isinstance(param, SettingOption)]
        _write(formatter, "Options", _records(own, ctx))
        settings = [param for param in shown if isinstance(param, SettingOption)]
        for section, options in groupby(settings, key=lambda option: option.section):
            _write(formatter, f"{section} (settings)", _records(list(options), ctx))
        if any(isinstance(param, SettingOption) and param.hidden for param in self.params):
            formatter.write_paragraph()
            formatter.write_text("Every other setting of `groundcrew up --help` is accepted here, too.")


class Page(click.Group):
    """A group of commands under headings, with examples. `sections` names each command once."""

    command_class = PageCommand

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, examples: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())
        self._sections = dict(sections or {})
        self._examples = examples.strip()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the sections; what no section names comes last."""
        named = [name for names in self._sections.values() for name in names if name in self.commands]
        return [*named, *sorted(self.commands.keys() - set(named))]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in self._headed(ctx):
            rows = [(name, self.commands[name].get_short_help_str(MOST_SUMMARY_CHARS)) for name in names]
            _write(formatter, heading, rows)
        if self._examples:
            with formatter.section("Examples"):
                for line in self._examples.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")

    def _headed(self, ctx: click.Context) -> Iterator[tuple[str, list[str]]]:
        named = {name for names in self._sections.values() for name in names}
        for heading, names in self._sections.items():
            yield heading, [name for name in names if name in self.commands]
        yield (
            ("More" if self._sections else "Commands"),
            [name for name in self.list_commands(ctx) if name not in named],
        )


Page.group_class = Page


def debug_option() -> click.Option:
    """`--debug`, which every command knows, so that it may stand anywhere on the line."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_start_debugging,
        help="Log everything, and show the traceback of an error",
    )  # fmt: skip


def _start_debugging(_: click.Context, __: click.Parameter, on: bool) -> None:
    if on:
        logging.getLogger().setLevel(logging.DEBUG)


def _records(params: Sequence[click.Parameter], ctx: click.Context) -> list[tuple[str, str]]:
    return [record for param in params if (record := param.get_help_record(ctx)) is not None]


def _write(formatter: click.HelpFormatter, heading: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows, col_max=34)
