"""Every sentence and label of the demo, by key: a language is one table, in a file of its own. What a program calls
(endpoints, their parameters) is not translated; of what the package says in a sentence of its own, what visitors often
read."""

from __future__ import annotations

import functools
import html
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from english import ENGLISH
from gradio.context import LocalContext
from gradio.i18n import I18nData
from japanese import JAPANESE

LANGUAGES = {"en": ENGLISH, "ja": JAPANESE}
"""Language, as browsers name it -> its table."""
NAMES = {"en": "English", "ja": "日本語"}
PACKAGE, GRADIO = "package.", "gradio."
_MARK = re.compile(r"__i18n__(\{[^}]*\})")
_marking = ContextVar("marking", default=False)
_marked: dict[str, tuple[str, dict[str, Any]]] = {}


@contextmanager
def marking() -> Iterator[None]:
    """In this block, in which a page is built for everybody, `say` gives a mark that the visitor's browser replaces by
    the text in their language, at any time (`translations`)."""
    token = _marking.set(True)
    try:
        yield
    finally:
        _marking.reset(token)


def mark(key: str, **values: object) -> str:
    """gradio's own mark of a translated text. The names of texts are none that a component may have as its value, which
    gradio would translate as well."""
    name = f"say:{key}"
    if values:
        name += f":{zlib.crc32(json.dumps(values).encode()):x}"
    _marked[name] = key, values
    return str(I18nData(name))


def is_mark(text: str) -> bool:
    """Whether there is a mark in a text."""
    return _MARK.search(text) is not None


def translations() -> dict[str, dict[str, str]]:
    """Language -> the text of every mark that was made, and of what gradio's page says by a name of its own and has in
    no other language than English (keys that begin with GRADIO)."""
    return {
        wanted: {name: _unmarked(wanted, _text(wanted, key, values)) for name, (key, values) in _marked.items()}
        | {key.removeprefix(GRADIO): text for key, text in table.items() if key.startswith(GRADIO)}
        for wanted, table in LANGUAGES.items()
    }


def _unmarked(wanted: str, text: str) -> str:
    """A text with those of the marks in it."""
    return _MARK.sub(lambda found: _unmarked(wanted, _text(wanted, *_marked[json.loads(found[1])["key"]])), text)


def language() -> str:
    """Of the visitor whose event is handled; English where nobody asks."""
    request = LocalContext.request.get(None)
    return wanted_language(request.headers, request.query_params) if request else "en"


def wanted_language(headers: Any, query: Any) -> str:
    """The language that a page's address names (`?lang=ja`), or else the browser asks for first, of those that are
    here; English if there is none. `style.head` asks the browser the same."""
    wanted = [query.get("lang", ""), *headers.get("accept-language", "").split(",")]
    tags = (part.split(";")[0].strip().lower().split("-")[0] for part in wanted)
    return next((tag for tag in tags if tag in LANGUAGES), "en")


class Said(str):
    """A text in one language that is known in all (`in_all`)."""

    key: str
    values: Mapping[str, object]


def say(key: str, **values: object) -> str:
    """The text of a key in the visitor's language, with values in its places; a mark of it in `marking`."""
    if _marking.get():
        return mark(key, **values)
    said = Said(_text(language(), key, values))
    said.key, said.values = key, values
    return said


def in_all(*texts: str) -> str:
    """HTML of texts, one after the other, in every language, of which the page shows its own, also where that changes
    later; what `say` has not made is as it is in all."""
    joined = {wanted: html.escape("".join(_again(wanted, text) for text in texts), quote=False) for wanted in LANGUAGES}
    if len(set(joined.values())) == 1:
        return joined["en"]
    return "".join(f'<span class="said" lang="{wanted}">{text}</span>' for wanted, text in joined.items())


def say_of_package(text: str) -> str:
    """A sentence of the package in the visitor's language, if it is one of the texts whose keys begin with PACKAGE: in
    English they are as the package says them."""
    for key, pattern in _package_patterns().items():
        if found := pattern.fullmatch(text):
            values = found.groupdict()
            return say(key, **values | {"what": say_of_package(values["what"])} if "what" in values else values)
    return text


@functools.cache
def _package_patterns() -> dict[str, re.Pattern[str]]:
    """Key -> what sentences of the package look like, with the text's values as groups."""
    known = {key: text for key, text in ENGLISH.items() if key.startswith(PACKAGE)}
    return {key: re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(text))) for key, text in known.items()}


def _text(wanted: str, key: str, values: Mapping[str, object]) -> str:
    text = LANGUAGES[wanted].get(key, ENGLISH[key])
    return text.format(**{name: _again(wanted, value) for name, value in values.items()}) if values else text


def _again(wanted: str, value: Any) -> Any:
    """A text in a language, if `say` made it; anything else as it is."""
    return _text(wanted, value.key, value.values) if isinstance(value, Said) else value


def say_emotion(name: str) -> str:
    """An emotion's name for the eye; of a checkpoint's own emotions, its own."""
    key = f"emotion.{name}"
    return say(key) if key in ENGLISH else name.capitalize()
