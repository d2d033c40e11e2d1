"""Sphinx: `make docs` builds the pages; a warning is an error."""

import gramian

project = "gramian"
author = "The gramian developers"
release = gramian.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = f"gramian {release}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository; tests/test_docs.py follows them
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cost", "Accuracy"]
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"  # `name` in a docstring is a name
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "member-order": "bysource"}
