"""The command line: C{twisted-cm}."""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__

#: Where each command is. A command's module is imported when it is run,
#: since the imports of all of them together take longer than most commands do.
_COMMANDS = {
    "check": ("seed", "check"),
    "env": ("module", "env"),
    "exec": ("module", "exec_"),
    "faults": ("faults", "faults"),
    "init": ("seed", "init"),
    "job": ("inspect", "job"),
    "jobs": ("inspect", "jobs"),
    "replay": ("replay", "replay"),
    "runtimes": ("inspect", "runtimes"),
    "serve": ("serve", "serve"),
    "status": ("inspect", "status"),
    "submit": ("submit", "submit"),
}


class _Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name]
        command: click.Command = getattr(import_module(f"twisted_cm.cli.{module}"), attribute)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twisted-cm")
def main() -> None:
    """A local emulator of Palantir Foundry's compute modules."""
