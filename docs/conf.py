"""Configure Sphinx."""

import sys
from pathlib import Path

from twisted_cm import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "twisted-cm"
author = "the twisted-cm developers"
copyright = author
release = __version__
html_theme = "furo"
html_title = f"twisted-cm {release}"
html_copy_source = False
html_extra_path = ["grafana-dashboard.json"]
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.towncrier.ext",
    "sphinxcontrib.zopeext.autointerface",
    "described",
    "epytext_fields",
    "import_layers",
]
exclude_patterns = ["_build", "_ext", "changes"]
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Attributes are listed in the class docstring, so that autodoc does not describe each of them twice.
napoleon_use_ivar = True
towncrier_draft_working_directory = HERE.parent
towncrier_draft_autoversion_mode = "sphinx-release"
