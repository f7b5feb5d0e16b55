"""A study on disk: one SQLite file, one transaction for an answer.

The file is in write-ahead mode with synchronous FULL: what `record` has returned from is on the disk, whatever happens
to the server. An answer's key is participant and position, so that a question has one answer however often it is
sent; the questions of every participant are stored when they join.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files.texts import parse_json
from .plan import Question

FILE = "study.sqlite3"
VERSION = 1
WAITING = 30  # seconds for another participant's answer to be written
RESERVED = 7200  # seconds for which the questions of somebody who does not finish are given to nobody else

_SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE participants (id TEXT PRIMARY KEY, number INTEGER NOT NULL, joined REAL NOT NULL)",
    "CREATE TABLE questions (participant TEXT NOT NULL REFERENCES participants, position INTEGER NOT NULL, "
    "question TEXT NOT NULL, PRIMARY KEY (participant, position))",
    "CREATE TABLE answers (participant TEXT NOT NULL, position INTEGER NOT NULL, answer TEXT NOT NULL, "
    "seconds REAL NOT NULL, time REAL NOT NULL, UNIQUE (participant, position), "
    "FOREIGN KEY (participant, position) REFERENCES questions)",
    f"PRAGMA user_version = {VERSION}",
)

_HELD = (
    "SELECT number FROM participants WHERE joined > ? OR (SELECT COUNT(*) FROM answers WHERE participant = id) = "
    "(SELECT COUNT(*) FROM questions WHERE participant = id)"
)


class StudyError(ValueError):
    """A study cannot be opened or an answer not taken; one sentence."""


@dataclass(frozen=True)
class Answer:
    """A question, what was answered ("left", "right", an emotion or "other"), and after how many seconds."""

    question: Question
    answer: str
    seconds: float


@dataclass(frozen=True)
class Participant:
    """Someone who agreed to take part, their answers in the order of the questions, and how many were asked."""

    id: str
    answers: tuple[Answer, ...]
    asked: int


class Store:
    """The study in a folder; safe to use from many threads and processes at once.

    Raises:
        StudyError: There is none, another program or version wrote it, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE
        if not is_study(folder):
            advice = "begin one with emorig study --edited NAME DIR … -o DIR"
            raise StudyError(f"There is no study in '{folder}': {advice}.")
        with self._connect() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise StudyError(f"'{self.path}' has version {version}, not {VERSION}: another emorig wrote it.")

    @classmethod
    def create(cls, folder: Path, settings: dict[str, Any]) -> Store:
        """Begin a study in a folder, which is made; settings are values that JSON knows."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        rows = [(name, json.dumps(value)) for name, value in settings.items()]
        with _open(Path(folder) / FILE, "rwc") as db:
            db.execute("PRAGMA journal_mode = WAL")
            with _transaction(db):
                for line in _SCHEMA:
                    db.execute(line)
                db.executemany("INSERT INTO settings VALUES (?, ?)", rows)
        return cls(folder)

    def settings(self) -> dict[str, Any]:
        """What `create` was given."""
        with self._connect() as db:
            return {name: parse_json(value) for name, value in db.execute("SELECT name, value FROM settings")}

    def join(self, participant: str, plan: Callable[[int], Sequence[Question]]) -> None:
        """Store the questions of a new participant, `plan` of their number; nothing for one who is known.

        The number is the first from 0 that nobody holds: one is held by who finished, and for RESERVED by who began.
        So those who leave do not unbalance a study.
        """
        with self._connect() as db, _transaction(db):
            if self._asked(db, participant):
                return
            now = time.time()
            held = {number for (number,) in db.execute(_HELD, (now - RESERVED,))}
            number = next(i for i in range(len(held) + 1) if i not in held)
            db.execute("INSERT INTO participants VALUES (?, ?, ?)", (participant, number, now))
            rows = [(participant, i, json.dumps(asdict(question))) for i, question in enumerate(plan(number))]
            db.executemany("INSERT INTO questions VALUES (?, ?, ?)", rows)

    def progress(self, participant: str) -> tuple[int, int]:
        """How many questions a participant has answered and was asked; (0, 0) for an unknown one."""
        with self._connect() as db:
            (answered,) = db.execute("SELECT COUNT(*) FROM answers WHERE participant = ?", (participant,)).fetchone()
            return answered, self._asked(db, participant)

    def next_question(self, participant: str) -> tuple[int, Question] | None:
        """Position and content of the first question without an answer, None after the last one."""
        query = (
            "SELECT position, question FROM questions WHERE participant = ? AND position NOT IN "
            "(SELECT position FROM answers WHERE participant = ?) ORDER BY position LIMIT 1"
        )
        with self._connect() as db:
            row = db.execute(query, (participant, participant)).fetchone()
        return row and (row[0], _question(row[1]))

    def record(self, participant: str, position: int, answer: str, seconds: float) -> bool:
        """Keep an answer for good; False if the question had one already, which stays.

        Raises:
            StudyError: Nobody was asked this, or it is no possible answer.
        """
        with self._connect() as db, _transaction(db):
            query = "SELECT question FROM questions WHERE participant = ? AND position = ?"
            row = db.execute(query, (participant, position)).fetchone()
            if row is None or answer not in _question(row[0]).answers:
                raise StudyError("This answer belongs to no question: load the page again.")
            values = (participant, position, answer, seconds, time.time())
            done = db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values)
            return done.rowcount == 1

    def participants(self) -> list[Participant]:
        """Everyone who agreed to take part, in the order in which they joined."""
        query = (
            "SELECT question, answer, seconds FROM answers JOIN questions USING (participant, position) "
            "WHERE participant = ? ORDER BY position"
        )
        with self._connect() as db:
            db.execute("BEGIN")  # one moment's state for all, without keeping others from writing
            people = db.execute("SELECT id FROM participants ORDER BY rowid").fetchall()
            return [
                Participant(
                    id, tuple(Answer(_question(q), *rest) for q, *rest in db.execute(query, (id,))), self._asked(db, id)
                )
                for (id,) in people
            ]

    @staticmethod
    def _asked(db: sqlite3.Connection, participant: str) -> int:
        return db.execute("SELECT COUNT(*) FROM questions WHERE participant = ?", (participant,)).fetchone()[0]

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return _open(self.path, "rw")


def is_study(folder: Path) -> bool:
    """Whether a study was begun in a folder."""
    path = Path(folder) / FILE
    if not path.is_file():
        return False
    with _open(path, "rw") as db:  # version 0: the program was killed before it was begun
        return db.execute("PRAGMA user_version").fetchone() != (0,)


@contextmanager
def _open(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        with closing(sqlite3.connect(address, timeout=WAITING, isolation_level=None, uri=True)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            yield db
    except sqlite3.Error as error:
        raise StudyError(f"The study '{path}' cannot be read or written ({error}).") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what is stored is none of ours
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"The study '{path}' is damaged ({error}): take a copy of it.") from error


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; after an error the connection is closed, which takes everything back."""
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")


def _question(text: str) -> Question:
    values = parse_json(text)
    return Question(**values | {"methods": tuple(values["methods"])})
