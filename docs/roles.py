"""A hook of MkDocs: roles of docstrings become the name alone.

A role is, for one, ``:class:`~package.Name` ``.
"""

import re

_ROLE = re.compile(r":(?:class|data|func|meth|mod):<code>(?:~[\w.]*\.)?([^<]*)</code>")


def on_page_content(html: str, **_: object) -> str:
    """Called by MkDocs with the HTML of every page."""
    return _ROLE.sub(r"<code>\1</code>", html)
