"""Configures Sphinx: `make docs` builds these pages into build/docs, and any warning is an error."""

import jaxft

project = "jaxft"
author = "the jaxft authors"
release = version = jaxft.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to headings, page.md#heading, are checked too
exclude_patterns = ["extending/*"]
html_theme = "furo"
html_title = "jaxft"
html_show_sphinx = False
autodoc_typehints = "description"
