"""The words of `words.toml`, and the known words of a sentence.

Japanese needs no tokenizer, for the longest known word wins at every place.
"""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("words.toml")
_LATIN = re.compile(r"[a-z][a-z']*|\d+(?:\.\d+)?\s*%|\s+|[^a-z\s]")
_SUFFIXES = ("ingly", "edly", "ing", "ed", "ly", "es", "s")
_KATAKANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}

Word = Mapping[str, Any]
"""What a word is, by role: part, action, degree, hedge, side, denial, end, fill, or `does`, which stands for itself."""


@functools.cache
def table() -> dict[str, Any]:
    """The file, with parts as part -> action -> what it does."""
    content = tomllib.loads(TABLE.read_text("utf-8"))
    content["says"] = {part: about.pop("say") for part, about in content["parts"].items()}
    for part in content["parts"].values():
        for action, does in part.items():
            others = {key: does.pop(key) for key in ("off", "gaze", "turn", "light", "hardness") if key in does}
            part[action] = {"units": does, **others}
    return content


@functools.cache
def lexicon() -> dict[str, Word]:
    """Every entry of the table, `_folded` and in hiragana, with what it is."""
    content, words = table(), {}

    def add(says: str, **role: Any) -> None:
        for said in re.split(r",\s+", _folded(says).translate(_KATAKANA)):
            if said in words and (words[said].keys() & role.keys() or {"does", "fill"} & {*words[said], *role}):
                raise ValueError(f"{TABLE.name} has {said!r} twice.")
            words.setdefault(said, {}).update(role)

    for part, says in content["says"].items():
        add(says, part=part)
    for role, section in (
        ("action", "actions"), ("side", "sides"), ("denial", "denials"), ("end", "ends"), ("degree", "degrees"),
        ("hedge", "hedges"), ("action", "degree_actions"),
    ):  # fmt: skip
        for name, says in content[section].items():
            add(says, **{role: float(name) if role in ("degree", "hedge") else name})
    for entry in content["words"]:
        add(entry["say"], does={key: value for key, value in entry.items() if key != "say"})
    add(content["fill"]["say"], fill=True)
    return words


@functools.cache
def stems() -> dict[str, str]:
    """Stems of the English entries -> the entry."""
    known: dict[str, str] = {}
    for entry in filter(str.isascii, lexicon()):
        known.setdefault(_stemmed(entry), entry)
    return known


def _folded(text: str) -> str:
    """Small letters, and one form for what looks alike."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("‘", "'")
    return re.sub(r"(?<=[a-z])[-‐‑–](?=[a-z])", " ", text).strip()


def _stemmed(phrase: str) -> str:
    """A phrase with its words in one form: smile, smiles, smiled, smiling."""
    return " ".join(map(_stem, phrase.split()))


@functools.cache
def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and not word.endswith("ss") and len(word) - len(suffix) > 2:
            word = word.removesuffix(suffix)
            break
    word = word.rstrip("e") if len(word) > 3 else word
    word = word[:-1] + "i" if word.endswith("y") else word
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def words_of(text: str) -> Iterator[tuple[str, Word | None]]:
    """The words of a sentence, the longest known one at every place, and `None` for what is unknown."""
    tokens = [token for token in _LATIN.findall(_folded(text)) if not token.isspace()]
    longest = {True: max(len(e.split()) for e in lexicon()), False: max(map(len, lexicon()))}
    unknown, at = "", 0
    while at < len(tokens):
        latin = tokens[at].isascii()
        length, word = _longest(tokens[at : at + longest[latin]], " " if latin else "")
        said = (" " if latin else "").join(tokens[at : at + max(length, 1)])
        if word is None and not latin:
            unknown += said
        elif unknown:
            yield from _unknown(unknown)
            unknown = ""
        if word is not None or latin:
            yield said, word
        at += max(length, 1)
    yield from _unknown(unknown)


def _longest(tokens: Sequence[str], space: str) -> tuple[int, Word | None]:
    """How many of the tokens are a known word, and that."""
    if tokens[0].endswith("%"):
        return 1, {"degree": float(tokens[0].rstrip("% ")) / 100}
    for length in range(len(tokens), 0, -1):
        said = space.join(tokens[:length])
        kana = said.translate(_KATAKANA) if length > 1 else said  # one letter is an ending, and those are hiragana
        known = lexicon().get(kana) or (lexicon().get(stems().get(_stemmed(said), "")) if space else None)
        if known is not None:
            return length, known
    return 1, None


def _unknown(run: str) -> Iterator[tuple[str, None]]:
    """Letters that are no known word, but for endings of the word before."""
    if len(run) > 2 or not all("ぁ" <= letter <= "ん" or letter == "ー" for letter in run):
        yield run, None
