"""Which commands does ``twisted-cm`` have, and where are they?"""

from __future__ import annotations

import gc
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from .. import __version__

#: The module and function of each command, and what the list of commands says of it: the first sentence of its help.
#: A module is imported when its command runs: importing all of them takes longer than most commands do.
COMMANDS = {
    "check": ("seed", "check", "Check a seed file for mistakes."),
    "dev": ("dev", "dev", "Run the emulator and a module in one terminal until Ctrl-C."),
    "env": ("module", "env", "Print the variables that a module needs."),
    "exec": ("module", "exec_", "Start a module and connect it to a server."),
    "faults": ("faults", "faults", "List, add and remove faults."),
    "init": ("seed", "init", "Write a starter seed file."),
    "job": ("inspect", "job", "Show one job with its query and result."),
    "jobs": ("inspect", "jobs", "List jobs, newest first."),
    "logs": ("supervised", "logs", "Show what the modules of a runtime wrote, if the server starts them."),
    "replay": ("replay", "replay", "Answer jobs from a recording."),
    "resend": ("resend", "resend", "Submit a job again and print its result."),
    "restart": (
        "supervised",
        "restart",
        "Replace the modules of a runtime by new processes, if the server starts them.",
    ),
    "runtimes": ("inspect", "runtimes", "List runtimes with their deployed apps, or the replicas of one runtime."),
    "serve": ("serve", "serve", "Run the emulator until Ctrl-C."),
    "status": ("inspect", "status", "Show server health and workload."),
    "submit": ("submit", "submit", "Submit jobs and print their results."),
    "wait": ("wait", "wait", "Wait until a replica of a runtime is connected."),
}


class _Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        # What is imported stays. The garbage collector would search it again and again, for a tenth of the time.
        gc.disable()
        try:
            command: click.Command = getattr(import_module(f".{module}", __package__), attribute)
        finally:
            gc.enable()
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        listed = click.Group(commands=[click.Command(name, help=help) for name, (_, _, help) in COMMANDS.items()])
        listed.format_commands(context, formatter)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=help) for name, (_, _, help) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, context, incomplete)]


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
