"""How the pages are built: sphinx-build -W --keep-going docs build/docs (CONTRIBUTING.md).

The build needs no network. The pages that it makes ask a public server for MathJax, which draws the formulas.
"""

import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

project = "mfa_fast"
author = "the mfa_fast developers"
copyright = author
version = release = version_of("mfa_fast")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
smartquotes = False  # they would make dashes of the options of commands
templates_path = ["_templates"]
nitpicky = True
# Single backticks in docstrings name parameters and packages as well as things that have a page: what has one becomes
# a link, the rest is set as code.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*")]

html_theme = "furo"
html_title = f"mfa_fast {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False

# Markdown as GitHub reads it: the pages in docs/ are read in both places.
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the docstrings tell types, and shapes too
autosummary_generate = True
numpydoc_show_class_members = False  # the template does

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("mfa_fast",),
    "reference_url": {"mfa_fast": None},
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "image_srcset": ["2x"],
}


def write_command_line(app: Sphinx) -> None:
    """Write the reference of the command `mfa-fast` as typer tells it."""
    command = [sys.executable, "-m", "typer", "mfa_fast._commands", "utils", "docs", "--name", "mfa-fast"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    page = Path(__file__).parent / "api" / "generated" / "command-line.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def keep_tags(app: Sphinx, tree: nodes.document) -> None:
    r"""Leave numbered formulas as they are: Sphinx puts those with several rows in `split`, where \tag is an error."""
    for node in tree.findall(nodes.math_block):
        if r"\tag" in node.astext():
            node["no-wrap"] = node["nowrap"] = True
            node[:] = [nodes.Text(rf"\[{node.astext()}\]")]


def leave_out(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out the methods by which scikit-learn routes metadata: it makes them, and documents them."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app: Sphinx) -> None:
    """Add what is the project's own."""
    app.connect("builder-inited", write_command_line)
    app.connect("doctree-read", keep_tags)
    app.connect("autodoc-skip-member", leave_out)
