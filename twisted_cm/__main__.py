"""C{python -m twisted_cm}, where no script was installed."""

from .cli import main

main(prog_name="twisted-cm")
