"""docs/troubleshooting.md quotes messages that there are, and leaves out none that a user can meet in training."""

import re
from pathlib import Path

import pytest

from tests.support.messages import ERRORS, FILLED, PACKAGE, REMARKS, messages

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.MULTILINE)
#: whose messages say all themselves: of texts and arrays, of runs that are read, of a function's own arguments
ELSEWHERE = {"recipes", "report", "errors.py", "ridge/api.py"}
SAID = list(messages(PACKAGE))
EXPECTED = [
    message
    for path in sorted(PACKAGE.rglob("*.py"))
    if not ELSEWHERE & {str(part) for part in (path.relative_to(PACKAGE), *path.relative_to(PACKAGE).parents)}
    for message in messages(path, kinds=(ERRORS | REMARKS) - {"DataError"})
]


def says(message, quoted):
    """Whether a quotation is the message, from its beginning and as far as it goes."""
    parts = [re.escape(part) for part in quoted.split(FILLED)]
    return re.match(".+?".join(parts), message) is not None


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_that_the_package_says(quoted):
    assert any(says(message, quoted) for message in SAID)


@pytest.mark.parametrize("message", EXPECTED)
def test_a_message_stands_in_the_page(message):
    assert any(says(message, quoted) for quoted in QUOTED if quoted.strip(f"{FILLED}: "))


def test_every_quotation_is_told_from_the_others():
    assert len(QUOTED) == len(set(QUOTED)) > 80
    assert all(len(quoted.replace(FILLED, "").strip()) > 8 for quoted in QUOTED)
