"""What went wrong, in one line."""

from __future__ import annotations


def sentence(error: Exception) -> str:
    """The message of an error in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}." if error.filename else f"{error.strerror}."
    return " ".join(text.split())
