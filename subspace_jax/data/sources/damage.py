"""Describe a file whose content is not of the expected format."""

SHOWN = 15  # bytes, enough for b'<!DOCTYPE html>'


def seen(start: bytes) -> str:
    """The first bytes of a file in words, for an error message."""
    if not start:
        return "it is empty"
    page = ", a web page saved in its place" if start.lstrip().startswith(b"<") else ""
    return f"it starts with {start[:SHOWN]!r}{page}"
