"""How `--help` looks: verbs in the order of the ring with a whole sentence each, and every option with its default.

Defaults are read from the configuration while help is shown, so that help cannot tell another one than the command has.
A group without a command shows its help: that is no mistake, so it is not called an error. An option that another command has
is told with that command, and a word too many with the option that was likely meant.
"""

from __future__ import annotations

import sys
from typing import Any

import click

FLAGS = {
    "source": "ingest.source", "layout": "ingest.layout", "from_": "ingest.log", "into": "lake", "budget": "train.budget",
    "family": "train.family", "seed": "train.seed", "turns": "loop.turns", "to": "compress.to",
    "max_loss": "compress.max_loss", "draft": "decode.draft", "on": "on", "place": "curate.source",
    "tls_cert": "listen.tls_cert", "tls_key": "listen.tls_key",
}  # fmt: skip
"""Options whose setting is not `VERB.OPTION`."""

SECTIONS = {
    "The ring": ("ingest", "curate", "train", "compress", "serve"),
    "All of it": ("loop",),
    "Tools": ("show", "eval", "doctor", "dash", "keys", "erase", "law", "bench", "new"),
}


def setting_of(verb: str, option: str) -> str:
    """The setting that an option of a verb sets: `serve.port`."""
    return option if "." in option else FLAGS.get(option, f"{verb}.{option}")


class Command(click.Command):
    """A command whose help tells what its options are set to where nobody says so."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            owners = _owners(ctx, error.option_name)
            if owners:
                raise click.UsageError(f"`{error.option_name}` is an option of {', '.join(owners)}", ctx) from None
            raise
        except click.UsageError as error:
            if error.message.startswith("Got unexpected extra") and any(each.name == "source" for each in self.params):
                raise click.UsageError(f"{error.message}; a file is named by `--source FILE`", ctx) from None
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        defaults = _defaults()
        verb = (ctx.parent if ctx.parent is not None and ctx.parent.info_name == "bench" else ctx).info_name or ""
        rows = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            default = defaults.get(setting_of(verb, param.name or ""))
            if record is not None:
                is_told = default and isinstance(default, str | int | float) and default is not True
                rows.append((record[0], f"{record[1]}  [default: {default}]" if is_told else record[1]))
        with formatter.section("Options"):
            formatter.write_dl(rows)


class Commands(click.Group):
    """A group that shows its help when it is called alone, and its commands by what they are for."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            click.echo(ctx.get_help(), err=True)
            sys.exit(2)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = self.list_commands(ctx)
        sections = {title: [name for name in names if name in known] for title, names in SECTIONS.items()}
        sections["Commands"] = [name for name in known if not any(name in names for names in SECTIONS.values())]
        if ctx.parent is not None:  # the ring is of gyral itself; `serve` is a command of `bench`, too
            sections = {"Commands": known}
        for title, names in sections.items():
            rows = [(name, self.commands[name].get_short_help_str(limit=500)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _owners(ctx: click.Context, option: str) -> list[str]:
    """The other commands that have this very option: `gyral train`."""
    group = ctx.find_root().command
    others = group.commands.items() if isinstance(group, click.Group) else ()
    return [f"`gyral {name}`" for name, each in others if any(option in param.opts for param in each.params)]


def _defaults() -> dict[str, Any]:
    from gyral.config import Config, describe

    return {key: value for key, value, _ in describe(Config())}
