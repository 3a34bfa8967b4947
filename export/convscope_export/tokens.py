"""The words and marks of ConvNet notation."""

import re
from dataclasses import dataclass

# Slides write arrows and crosses; canonical notation has -> and x.
_TOKEN = re.compile(
    r"(?P<arrow>->|→)"
    r"|(?P<size>\d+(?:\s*[xX×]\s*\d+)+)"
    r"|(?P<number>\d+)"
    r"|(?P<word>[^\W\d]\w*)"
    r"|(?P<mark>\S)"
)
_SHOWN_CHARACTERS = 30


@dataclass(frozen=True)
class Token:
    """One of them, and where it stands.

    Attributes:
        kind: arrow, size, number, word or mark; empty for the end of the text.
        text: As it was written.
        start: In characters from 0.
        end: Exclusive.
    """

    kind: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        """What an error says that it got: one line, and not a long one."""
        text = " ".join(self.text.split()) or "the end"
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
        return shown if shown.isprintable() else repr(shown)


def tokens(text: str) -> list[Token]:
    """All of a text's tokens; whatever is none of the notation is a mark."""
    return [
        Token(match.lastgroup or "", match.group(), *match.span())
        for match in _TOKEN.finditer(text)
    ]


def end_of(text: str) -> Token:
    """What comes after the last token."""
    end = len(text.rstrip())
    return Token("", "", end, end + 1)
