"""Stand in for ``pip`` where nothing can be downloaded: the project is installed already, under its own name."""

import os
import sys

REPOSITORY = "git+https://github.com/OWNER/twisted-cm"

arguments = ["twisted-cm" if each == REPOSITORY else each for each in sys.argv[1:]]
os.execv(sys.executable, [sys.executable, "-m", "pip", *arguments])
