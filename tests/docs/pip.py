"""Stand in for ``pip`` where nothing can be downloaded: everything is installed already, this project under its name.

uv checks that in a hundredth of the time.
"""

import os
import sys
from pathlib import Path

REPOSITORY = "git+https://github.com/OWNER/twisted-cm"

arguments = ["twisted-cm" if each == REPOSITORY else each for each in sys.argv[1:]]
uv = str(Path(sys.executable).with_name("uv"))
os.execv(uv, [uv, "pip", *arguments, "--offline", "--python", sys.executable])
