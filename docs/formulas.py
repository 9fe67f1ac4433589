"""A hook of MkDocs: formulas become MathML, which browsers draw by themselves.

That needs no script and no network. ``pymdownx.arithmatex`` finds ``$...$`` and
``$$...$$`` in the pages, and latex2mathml converts what it found.
"""

import re
from html import unescape

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def _mathml(found: re.Match[str]) -> str:
    tag, formula = found[1], unescape(found[2]).strip()
    mathml = convert(formula, display="block" if tag == "div" else "inline")
    # the converter leaves a command or an environment that it does not know
    if "\\" in mathml or ">&<" in mathml:
        raise PluginError(f"The formula {formula!r} cannot be converted: {mathml}")
    return f'<{tag} class="formula">{mathml}</{tag}>'


def on_page_content(html: str, **_: object) -> str:
    """Called by MkDocs with the HTML of every page."""
    return _FORMULA.sub(_mathml, html)
