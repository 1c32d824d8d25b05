"""Text from outside, made such that a database can hold it."""


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses: no NUL, nothing that is not UTF-8."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
