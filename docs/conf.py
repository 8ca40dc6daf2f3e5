"""Sphinx configuration."""

from twisted_cm import __version__

project = "twisted-cm"
author = "the twisted-cm developers"
release = __version__
html_theme = "alabaster"
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
