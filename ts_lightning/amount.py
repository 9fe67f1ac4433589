"""A count and what is counted, in the singular or the plural: messages, tables and figures all say it alike."""

from __future__ import annotations


def amount(count: float, one: str, several: str | None = None) -> str:
    """A count and what is counted, as in "1 step" and "1,200 steps".

    Args:
        count: rounded to a whole number.
        one: the word for one of them.
        several: the word for any other number; ``None`` for ``one`` with an s.
    """
    text = f"{count:,.0f}"
    return f"{text} {one if text == '1' else several or one + 's'}"
