"""Text for a terminal.

What came from outside may hold anything, escape sequences for the terminal included: only printable characters are
passed on.
"""

from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with every character that a terminal would not simply show written as an escape."""
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of as many cells each, in columns as wide as their widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
