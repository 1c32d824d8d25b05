"""What programs of the user's say, made fit for a line of the log."""

import signal

_MAX_CHARACTERS = 200


def printable(text: str) -> str:
    """The beginning of a text, with `?` for what would not show or would do something to a terminal."""
    return "".join(it if it.isprintable() else "?" for it in text[:_MAX_CHARACTERS])


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
