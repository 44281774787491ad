"""Settings of Sphinx, by which scripts/docs builds this folder."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # generated.py and diagrams.py

import generated  # noqa: E402
from hkrunner import __version__  # noqa: E402

project = "hkrunner"
author = "hkrunner developers"
copyright = author
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["*.py"]
nitpicky = True
# Types of the standard library in signatures have no page here.
nitpick_ignore_regex = [(r"py:.*", r".*")]
# Docstrings of the code write names `like this`.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

add_module_names = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"hkrunner {version}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["wide.css"]
# furo uses the fonts of the system, so no page loads anything from another site.
html_theme_options = {"navigation_with_keys": True}

_COLUMNS = re.compile(r"\S {2,}\S")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$", re.M)
_HERE = re.compile(r"^<!-- here: ([a-z ]+) -->$", re.M)


def put_generated(app, name, source):
    """Replace each mark by the generated part, and show which commands no test runs."""
    text = _HERE.sub(lambda found: generated.PARTS[found[1]](), source[0])
    source[0] = _NOT_RUN.sub(r"*Not run by a test: \1.*\n", text)


def show_as_written(app, what, name, subject, options, lines):
    """Convert a docstring, which is plain text, to reStructuredText that shows the same text."""
    shown = []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        inside = paragraph.splitlines()
        if any(_COLUMNS.search(line) or line.startswith(" ") for line in inside):
            shown += ["::", "", *(f"    {line}" for line in inside), ""]
        else:
            # Escape what is markup in reStructuredText: an underscore at the end of a word, an asterisk.
            shown += [*(re.sub(r"_(?=\W|$)|\*", r"\\\g<0>", line) for line in inside), ""]
    lines[:] = shown


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", show_as_written)
    app.connect("source-read", put_generated)
