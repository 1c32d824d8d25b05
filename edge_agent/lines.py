"""A stream of bytes cut into lines."""


class Lines:
    """Keeps what has not ended yet for the next piece. A line longer than `max_bytes` is dropped when it ends."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unfinished = b""
        self._dropping = False  # the beginning of the unfinished line is gone, it was too long

    def feed(self, piece: bytes) -> tuple[list[bytes], int]:
        """The lines that end with this piece, without their line feeds, and how many others were too long."""
        *ended, self._unfinished = (self._unfinished + piece).split(b"\n")
        lines = ended[1:] if self._dropping else ended
        kept = [line for line in lines if len(line) <= self._max_bytes]
        self._dropping = (self._dropping and not ended) or len(self._unfinished) > self._max_bytes
        if self._dropping:
            self._unfinished = b""
        return kept, len(ended) - len(kept)

    @property
    def unfinished(self) -> bool:
        """Whether anything has come since the last line feed."""
        return self._dropping or self._unfinished != b""
