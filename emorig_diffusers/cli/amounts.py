"""Amounts by name in a text, as people type them: `happy=.6, surprise=.4`."""

from __future__ import annotations

from collections.abc import Iterable


def parse_amounts(text: str) -> list[tuple[str, float]]:
    """Names and numbers of a text, NAME=NUMBER separated by commas; ValueError for another text."""
    parts = [part.split("=") for part in text.split(",") if part.strip()]
    try:
        amounts = [(name.strip(), float(amount)) for name, amount in parts]
    except ValueError:
        amounts = []
    if not amounts:
        raise ValueError(f"give NAME=NUMBER, several separated by commas, not {text!r}")
    return amounts


def by_name(amounts: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Amounts by name; ValueError where a name comes twice."""
    found: dict[str, float] = {}
    for name, amount in amounts:
        if name in found:
            raise ValueError(f"{name} is named twice: name it once.")
        found[name] = amount
    return found
