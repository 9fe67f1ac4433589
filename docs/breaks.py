"""A hook of MkDocs: long names may break between their words, on narrow screens.

``reference_forward(batch)`` and ``TargetSpaceConfig`` get places at which a browser
may break the line, in inline code and in tables; ``--option`` gets none behind its
hyphens. What is copied stays the same.
"""

import re

_TAG = re.compile(r"(<[^>]+>)")
_LONG = re.compile(r"[\w.=(/\"]{16,}")
#: behind punctuation within a name, and ahead of a capital
_PLACE = re.compile(r"(?<=[A-Za-z)][._=(/])(?=[A-Za-z&\"])|(?<=[a-z])(?=[A-Z][a-z])")
_OPTION = re.compile(r"(?<![\w-])--[A-Za-z]+")


def on_page_content(html: str, **_: object) -> str:
    """Called by MkDocs with the HTML of every page."""
    parts, inside = [], dict.fromkeys(("pre", "math", "code", "td", "th"), 0)
    for part in _TAG.split(html):
        if part.startswith("<"):
            name = part.strip("</>").split(maxsplit=1)[0]
            if name in inside:
                inside[name] += -1 if part.startswith("</") else 1
        elif not inside["pre"] and not inside["math"] and any(inside.values()):
            part = _LONG.sub(lambda name: _PLACE.sub("<wbr>", name[0]), part)
            part = _OPTION.sub(r'<span class="option">\g<0></span>', part)
        parts.append(part)
    return "".join(parts)
