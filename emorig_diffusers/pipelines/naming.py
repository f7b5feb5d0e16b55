"""Errors say which of a call's photos they are about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..photo.faces import NoFaceError
from ..photo.io import PhotoError


@contextmanager
def naming_photo(number: int, count: int) -> Iterator[None]:
    """Say which of several photos cannot be read, shows no face or cannot be edited like that."""
    try:
        yield
    except ValueError as error:
        if count == 1 or type(error) not in (ValueError, PhotoError, NoFaceError):
            raise
        raise type(error)(f"Photo {number} of {count}: {error}") from error


@contextmanager
def naming_reference() -> Iterator[None]:
    """Say that it is the reference that cannot be read or shows no face."""
    try:
        yield
    except (PhotoError, NoFaceError) as error:
        raise type(error)(f"The reference: {error}") from error
