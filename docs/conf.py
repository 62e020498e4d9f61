"""Sphinx's settings for the site that `docs/build.py` builds. Nothing is executed or downloaded."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from build import as_rst  # noqa: E402

from tgd_lib import __version__  # noqa: E402

project = "Topological guidance for knowledge distillation"
author = "The TGD companion's authors"
copyright = f"2026, {author}"
version = release = __version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_copybutton"]
# A profile without recorded results has no page, so a list of pages may be empty.
suppress_warnings = ["toc.empty_glob", "myst.header"]

# ---------------------------------------------------------------- pages

nb_execution_mode = "off"  # the twins bear the outputs of a recorded run
nb_merge_streams = True
nb_code_prompt_show = "Show {type}"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# ---------------------------------------------------------------- the API

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # PyTorch's own are not ours to print
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# ---------------------------------------------------------------- looks

html_theme = "furo"
html_title = "TGD, a reproducible companion"
html_static_path = [str(HERE / "_static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_domain_indices = False  # the API has an index by room
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"
# Mathematics without the internet: MathJax in one file, which draws its letters itself. The package
# that brings it has a name that no import statement can say.
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
html_static_path.append(str(MATHJAX / "static" / "mathjax" / "tex-svg.js"))
mathjax_path = "tex-svg.js"


def setup(app):
    """Docstrings here are plain English: they are made reStructuredText on their way in."""
    app.connect("autodoc-process-docstring", _plain)


def _plain(app, what, name, obj, options, lines):
    lines[:] = as_rst(lines)
