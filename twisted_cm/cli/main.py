"""Which commands does ``twisted-cm`` have, and where are they?"""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__

#: The module and function of each command. A module is imported when its command runs:
#: importing all of them takes longer than most commands do.
_COMMANDS = {
    "check": ("seed", "check"),
    "dev": ("dev", "dev"),
    "env": ("module", "env"),
    "exec": ("module", "exec_"),
    "faults": ("faults", "faults"),
    "init": ("seed", "init"),
    "job": ("inspect", "job"),
    "jobs": ("inspect", "jobs"),
    "logs": ("supervised", "logs"),
    "replay": ("replay", "replay"),
    "resend": ("resend", "resend"),
    "restart": ("supervised", "restart"),
    "runtimes": ("inspect", "runtimes"),
    "serve": ("serve", "serve"),
    "status": ("inspect", "status"),
    "submit": ("submit", "submit"),
    "wait": ("wait", "wait"),
}


class _Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name]
        command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twisted-cm")
def main() -> None:
    """Emulate Palantir Foundry's compute modules on this machine.

    \b
    Examples:
      twisted-cm dev -- python app.py
      twisted-cm serve
      twisted-cm exec --runtime mine --deployed-app ri.mine -- python app.py
      twisted-cm submit ri.mine add '{"a": 2, "b": 40}'
    """
