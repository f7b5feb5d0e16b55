"""A study's answers when its server is killed, when people click twice, and when many answer at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from emorig_diffusers.evaluation.study.plan import Question
from emorig_diffusers.evaluation.study.store import FILE, Store, StudyError, is_study

QUESTIONS, AT_ONCE = 150, 20  # of which a server that is to be killed answers so many, then waits for that
SERVER = f"""
import os, signal, sqlite3, sys
from pathlib import Path
from emorig_diffusers.evaluation.study.plan import Question
from emorig_diffusers.evaluation.study.store import Store

class Dying(sqlite3.Connection):
    "Killed at the moment at which the fourth answer is about to be, or has just been, written."
    def execute(self, sql, *values):
        global commits
        commits += sql == "COMMIT"
        if sql == "COMMIT" and commits == 5 and moment == "before":
            os.kill(os.getpid(), 9)
        result = super().execute(sql, *values)
        if sql == "COMMIT" and commits == 5 and moment == "after":
            os.kill(os.getpid(), 9)
        return result

commits, moment, left, connect = 0, sys.argv[2], int(sys.argv[3]), sqlite3.connect
sqlite3.connect = lambda *values, **options: connect(*values, factory=Dying, **options)
store = Store(Path(sys.argv[1]))
store.join("p", lambda number: [Question("emotion", f"{{i}}.png", "sad", ("a",)) for i in range({QUESTIONS})])
while (following := store.next_question("p")) is not None:
    position, question = following
    store.record("p", position, question.answers[position % 9], 1.0)
    print(position, flush=True)
    left -= 1
    if not left:
        signal.pause()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path, {"edited": {"a": "b"}, "number": 1.5, "none": None})


def questions(number: int) -> list[Question]:
    return [Question("real", f"{number}-{i}.png", "happy", ("a", "b"), "left" if i else None) for i in range(3)]


def serve(folder: Path, moment: str = "never", most: int = QUESTIONS + 1) -> subprocess.Popen[str]:
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", SERVER, str(folder), moment, str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})


def stored(store: Store) -> dict[int, str]:
    """Position -> answer, straight from the file, which must be whole."""
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = db.execute("SELECT position, answer FROM answers").fetchall()
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_no_answer_is_lost_or_doubled_by_kills(store: Store) -> None:
    random, confirmed = Random(0), []
    for _ in range(7):
        server = serve(store.path.parent, most=AT_ONCE)
        confirmed.append(int(server.stdout.readline()))
        begun, more = time.monotonic(), random.randint(1, 12)
        confirmed += [int(server.stdout.readline()) for _ in range(more)]
        time.sleep(random.uniform(0, 3 * (time.monotonic() - begun) / more))  # in which it gives another three or so
        server.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in server.communicate()[0].split("\n")[:-1]]
        kept = stored(store)
        assert set(confirmed) <= set(kept)
        assert len(kept) <= len(confirmed) + 7  # at most one answer a kill was kept but not confirmed any more
        assert sorted(kept) == list(range(len(kept)))
    assert len(confirmed) == len(set(confirmed)) < QUESTIONS
    server = serve(store.path.parent)
    server.communicate()
    question = Question("emotion", "", "sad", ("a",))
    assert stored(store) == {i: question.answers[i % 9] for i in range(QUESTIONS)}
    assert store.next_question("p") is None


@pytest.mark.parametrize(("moment", "kept"), [("before", 3), ("after", 4)])
def test_an_answer_is_kept_from_the_moment_of_its_commit(store: Store, moment: str, kept: int) -> None:
    server = serve(store.path.parent, moment)
    confirmed = server.communicate()[0].split()
    assert server.returncode == -signal.SIGKILL
    assert confirmed == ["0", "1", "2"]
    assert sorted(stored(store)) == list(range(kept))
    assert store.next_question("p")[0] == kept


def test_commits_reach_the_disk(store: Store) -> None:
    with store._connect() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_double_click_counts_once(store: Store) -> None:
    store.join("p", questions)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda i: store.record("p", 0, ("left", "right")[i % 2], i), range(8)))
    assert sum(kept) == 1
    (person,) = store.participants()
    assert [answer.seconds for answer in person.answers] == [kept.index(True)]
    assert store.progress("p") == (1, 3)


def test_many_participants_at_once(store: Store) -> None:
    def take_part(who: str) -> None:
        store.join(who, questions)
        while (following := store.next_question(who)) is not None:
            store.record(who, following[0], "right", 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take_part, [*"abcdefabc"]))
    people = store.participants()
    assert sorted(person.id for person in people) == [*"abcdef"]
    assert all(len(person.answers) == person.asked == 3 for person in people)
    assert {person.answers[0].question.photo for person in people} == {f"{n}-0.png" for n in range(6)}


def test_questions_stay_those_of_the_first_visit(store: Store) -> None:
    store.join("p", questions)
    store.join("p", lambda number: [])
    again = Store(store.path.parent)
    assert again.next_question("p") == (0, questions(0)[0])
    again.record("p", 0, "left", 1)
    assert again.next_question("p") == (1, questions(0)[1])
    assert again.next_question("nobody") is None
    assert again.progress("nobody") == (0, 0)
    assert again.settings() == {"edited": {"a": "b"}, "number": 1.5, "none": None}


def test_who_leaves_is_replaced(store: Store) -> None:
    first = lambda who: store.next_question(who)[1].photo
    for who in "abc":
        store.join(who, questions)
    assert [first(who) for who in "abc"] == ["0-0.png", "1-0.png", "2-0.png"]
    for position in range(3):
        store.record("a", position, "left", 1)
    with sqlite3.connect(store.path) as db:  # a finished and b left hours ago
        db.execute("UPDATE participants SET joined = joined - 10000 WHERE id IN ('a', 'b')")
    for who in "de":
        store.join(who, questions)
    assert [first(who) for who in "bcde"] == ["1-0.png", "2-0.png", "1-0.png", "3-0.png"]


@pytest.mark.parametrize("wrong", [("p", 3, "left"), ("p", 0, "sad"), ("nobody", 0, "left")])
def test_answers_that_nobody_was_asked_for_are_refused(store: Store, wrong: tuple[str, int, str]) -> None:
    store.join("p", questions)
    with pytest.raises(StudyError, match="belongs to no question"):
        store.record(*wrong, 1.0)
    assert stored(store) == {}


def test_files_that_are_no_study(tmp_path: Path) -> None:
    assert not is_study(tmp_path)
    with pytest.raises(StudyError, match="There is no study in"):
        Store(tmp_path)
    (tmp_path / FILE).touch()  # what a program leaves that is killed before it begins
    assert not is_study(tmp_path)
    assert Store.create(tmp_path, {"a": 1}).settings() == {"a": 1}
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(StudyError, match="has version 7, not 1"):
        Store(tmp_path)
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / FILE).write_text("This is a letter. " * 100)
    with pytest.raises(StudyError, match="cannot be read or written"):
        Store(letters)
