"""The part of a text that an error is about, with carets under the place."""

import re

# Fits an 80-column terminal.
_CHARACTERS = 76
_CUT = "..."


def marked(text: str, start: int, end: int) -> str:
    """Two lines, each after a line break: the text around a place, and the carets.

    Args:
        text: Of any number of lines; only the one that the place starts in is shown.
        start: In characters from 0.
        end: Exclusive; may lie beyond the text.

    Returns:
        Nothing if that line is empty.
    """
    begin = max(text.rfind(mark, 0, start) for mark in "\r\n") + 1
    line = re.split(r"[\r\n]", text[begin:], maxsplit=1)[0]
    # One column a character: tabs and other control characters would shift the carets.
    line = "".join(c if c.isprintable() else " " for c in line).rstrip()
    if not line.strip():
        return ""
    column = start - begin
    skipped = max(0, column - _CHARACTERS // 2) if len(line) > _CHARACTERS else 0
    before = _CUT if skipped else ""
    shown, column = before + line[skipped:], column - skipped + len(before)
    if len(shown) > _CHARACTERS:
        shown = shown[: _CHARACTERS - len(_CUT)] + _CUT
    carets = "^" * max(1, min(end - start, len(shown) - column))
    return f"\n  {shown}\n  {' ' * column}{carets}"
