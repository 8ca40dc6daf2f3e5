"""Stand in for ``python`` where nothing can be downloaded.

A virtual environment that it makes has the packages of the environment in ``SDK_BIN``. Other commands go to the
interpreter that runs this file.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

if sys.argv[1:3] == ["-m", "venv"]:
    directory = Path(sys.argv[3])
    venv.create(directory, symlinks=True)
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs, ours = (
        subprocess.check_output([interpreter, "-c", asked], text=True).strip()
        for interpreter in (f"{os.environ['SDK_BIN']}/python", directory / "bin" / "python")
    )
    (Path(ours) / "sdk.pth").write_text(theirs)
    pip = directory / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{directory.absolute()}/bin/python" -m pip "$@"\n')
    pip.chmod(0o755)
else:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
