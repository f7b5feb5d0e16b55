"""What scripts of training share, be it one that trains no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from ..files.assets import AssetError

PATIENCE = timedelta(days=1)  # for processes that prepare photos or draw sheets, before the others give up waiting


@contextmanager
def refusals() -> Iterator[None]:
    """Where a script's work is done: what is wrong with its input, or a file, ends it with one sentence."""
    try:
        yield
    except (AssetError, OSError, ValueError) as error:  # DataError, PhotoError and FolderError are ValueErrors
        raise SystemExit(str(error)) from None
