"""How words go together: degrees and sides go to what comes next (or came last, where nothing comes), parts of the face
go together with what they do, and denials take away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .vocabulary import Word, table


@dataclass
class Wish:
    """Something that a sentence asks for: what it does (an entry of the table), how much of it, where, and whether
    that is denied; `action` is a part's, and `first` says whether it came before its part."""

    does: Mapping[str, Any]
    degree: float | None = None
    side: str | None = None
    denied: bool = False
    hedged: bool = False
    action: str | None = None
    first: bool = False

    @property
    def amount(self) -> float:
        """The degree, 1 where none is said."""
        return max(1.0 if self.degree is None else self.degree, self.does.get("least", 0.0))


class Reader:
    """Puts words together, one after the other: `wishes` is what they ask for, `unknown` what is no word."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.unknown: list[str] = []
        self.segment = 0  # wishes before the present segment
        self.parts: list[str] = []  # that wait for an action
        self.joined = False  # whether only `and` stands before them
        self.part = ""  # that came last
        self.actions: list[tuple[str, Word]] = []  # that wait for a part
        self.degree: float | None = None
        self.side: str | None = None
        self.denied = self.hedged = False

    def take(self, said: str, word: Word | None) -> None:
        """The next word; `None` for one that there is not."""
        if word is None:
            self.unknown.append(said)
        elif "does" in word:
            self._drop_actions()
            self._add(word["does"])
        elif "part" in word and not ("degree" in word and not self._awaited(word["part"])):
            self._part(word["part"])
        elif "action" in word:
            self._action(word["action"], word)
        elif "degree" in word:
            self._more(word["degree"])
        elif "hedge" in word:
            self._more(word["hedge"])
            self.hedged = True
        elif "side" in word:
            self._side(word["side"])
        elif word.get("denial") == "next":
            self.denied = True
        elif word.get("denial") == "last" and self.wishes:
            self.wishes[-1].denied = not self.wishes[-1].hedged
        elif "end" in word:
            self.end(word["end"], said)

    def end(self, kind: str, said: str = "") -> None:
        """The end of a segment: what is left goes to what came last."""
        last = self.wishes[-1] if self.wishes else None
        plain = table()["plain"]
        for part in [part for part in self.parts if part in plain]:
            self.parts.remove(part)
            self._add(table()["parts"][part][plain[part]], part)
        if self.parts and self.joined and last is not None and last.first and last.action:
            self._pair([part for part in self.parts if self._can(part, last.action)], last.action, first=True)
        for action, _ in tuple(self.actions):
            self._left_over(action)
        self._drop_actions()
        if self.wishes and self.side is not None:
            self._late_side(self.wishes[-1])
        if self.wishes and (len(self.wishes) > self.segment or kind == "all") and self.wishes[-1].degree is None:
            self.wishes[-1].degree, self.degree = self.degree, None
        if kind == "stop":
            self.parts.clear()
        self.joined = kind == "join"
        if said in ("or", "nor") and last is not None:
            self.denied = last.denied
        self.segment = len(self.wishes)

    def _can(self, part: str, action: str) -> bool:
        return action in table()["parts"][part]

    def _awaited(self, part: str) -> bool:
        """Whether something came that a part of this name does: "soft light", and not "light smile"."""
        return any(self._can(part, one) for one in [*(action for action, _ in self.actions), self.side or ""])

    def _add(self, does: Mapping[str, Any], action: str | None = None, first: bool = False) -> None:
        self.wishes.append(Wish(does, self.degree, self.side, self.denied, self.hedged, action, first))
        self.degree, self.side, self.denied, self.hedged = None, None, False, False

    def _pair(self, parts: Sequence[str], action: str, first: bool = False) -> None:
        """Parts that do something, all with what waits for it."""
        waiting = self.degree, self.side, self.denied, self.hedged
        for part in parts:
            self.degree, self.side, self.denied, self.hedged = waiting
            self._add(table()["parts"][part][action], action, first)
            self.part = part
        self.parts = [part for part in self.parts if part not in parts]

    def _part(self, part: str) -> None:
        if self.side is not None and self._can(part, self.side):
            side, self.side = self.side, None
            self._pair([part], side)
        doing = [action for action, _ in self.actions if self._can(part, action)]
        self.actions = [one for one in self.actions if one[0] not in doing]
        for action in doing:
            self._pair([part], action, first=True)
        if not doing:
            self.parts.append(part)
            self.part = part

    def _action(self, action: str, word: Word) -> None:
        doing = [part for part in self.parts if self._can(part, action)]
        if doing:
            self._drop_actions()
            self._pair(doing, action)
        else:
            self.actions.append((action, word))

    def _left_over(self, action: str) -> None:
        """An action without a part of its own: of the part that came last, or of the one whose it always is."""
        part: str = table()["alone"].get(action) or (self.part if self.wishes else "")
        if part and self._can(part, action):
            self.actions = [one for one in self.actions if one[0] != action]
            self._pair([part], action)

    def _drop_actions(self) -> None:
        """Actions that came to nothing count as the degrees that their words may be as well."""
        for _, word in self.actions:
            if "degree" in word:
                self._more(word["degree"])
        self.actions.clear()

    def _more(self, degree: float) -> None:
        """One more degree: of several the weakest counts, or else the strongest."""
        both = [degree, degree if self.degree is None else self.degree]
        self.degree = min(both) if min(both) < 1 else max(both)

    def _side(self, side: str) -> None:
        doing = [part for part in self.parts if self._can(part, side)]
        if doing:
            self._pair(doing, side)
        else:
            self.side = side

    def _late_side(self, last: Wish) -> None:
        """A side after which nothing comes: a direction of the part that came last, or the side of what did."""
        side, self.side = self.side, None
        if self.part and last.action and side and self._can(self.part, side):
            self._pair([self.part], side)
        elif last.side is None:
            last.side = side
