"""Run the command line with ``python -m twisted_cm``, where no script is installed."""

from .cli import main

main(prog_name="twisted-cm")
