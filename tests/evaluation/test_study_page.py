"""A study as its participants see it: two browsers, a server that is killed, every answer kept once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from processes import free_port
from test_space import ASTRONAUT, REPOSITORY, STARTING, WAITING, host, wait_for

from emorig_diffusers.cli import main
from emorig_diffusers.evaluation.study.plan import Question
from emorig_diffusers.evaluation.study.store import Store

TOTAL = 9  # 6 questions and 3 attention checks
METHODS = ("ours-secret", "rival-secret")


class Server:
    """`emorig study` as a process that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}/"
        self.study = folder / "study"

    def start(self, *options: str | Path) -> None:
        paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        words = ["study", *options, "--port", self.port, "-o", self.study]
        command = [sys.executable, "-m", "emorig_diffusers", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": paths, "GRADIO_TEMP_DIR": str(self.folder / "files")}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_heed_interrupts
            )
        wait_for(self.url, self.process, self.folder / "log")

    def stop(self, how: int) -> int:
        self.process.send_signal(how)
        return self.process.wait(STARTING)


def _heed_interrupts() -> None:
    """Tests that run in the background of a script inherit its deafness to interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("study")
    for i in range(3):
        face = Image.fromarray(np.roll(ASTRONAUT[20:220, 130:310], 7 * i, 1))
        for folder in ("source", *(f"{method}/{e}" for method in METHODS for e in ("happy", "fear"))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            blurred = face.filter(ImageFilter.GaussianBlur(2 * ("rival" in folder)))
            blurred.save(root / folder / f"mystery{i}.png")
    server = Server(root)
    edited = [word for method in METHODS for word in ("--edited", method, root / method)]
    server.start(*edited, "--source", root / "source", "--questions", "6")
    try:
        yield server
        assert server.stop(signal.SIGINT) == 0
    finally:
        server.process.kill()


class Visitor:
    """A participant with a browser of their own, who prefers the first method and sees what was meant."""

    def __init__(self, browser: Any, server: Server, participant: str = "", **options: Any) -> None:
        self.server, self.hosts, self.errors, self.given = server, set(), [], {}
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(WAITING)
        self.open(participant)

    def open(self, participant: str = "") -> None:
        """The page in a new tab; one that has lost its server loads itself anew at any moment, with what is done."""
        for page in self.context.pages:
            page.close()
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.hosts.add(host(request.url)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(self.server.url + (f"?participant={participant}" if participant else ""))

    def agree(self) -> None:
        self.page.get_by_text("What is stored:").wait_for()
        self.page.click("#agree")
        self.page.click("#start")
        self.asked(1)
        self.who = self.page.url.partition("?participant=")[2]

    def asked(self, number: int) -> None:
        self.page.get_by_text(f"{number} of {TOTAL}", exact=True).wait_for()
        self.page.wait_for_timeout(300)  # a quicker answer is not taken

    def next(self) -> tuple[int, Question]:
        return Store(self.server.study).next_question(self.who)

    def answer(self, key: bool = False, double: bool = False) -> None:
        """Answer what the page asks, by mouse or by key, and wait for what follows."""
        position, question = self.next()
        answer = choose(question)
        assert self.page.locator("#left").is_visible() == (question.kind != "emotion")
        assert self.page.locator("#other").is_visible() == (question.kind == "emotion")
        assert self.page.locator(".pictures img").count() == {"real": 2, "person": 3, "emotion": 1}[question.kind]
        if key:
            keys = {"left": "ArrowLeft", "right": "ArrowRight"}
            self.page.keyboard.press(keys.get(answer) or str(question.answers.index(answer) + 1))
        else:
            self.page.click(f"#{answer}", click_count=2 if double else 1)
        self.given[position] = answer
        if position + 1 < TOTAL:
            self.asked(position + 2)

    def thanked(self) -> None:
        self.page.get_by_text("All your answers are saved.").wait_for()


def choose(question: Question) -> str:
    if question.check is not None:
        return question.check
    return question.emotion if question.kind == "emotion" else ("left", "right")[question.methods.index(METHODS[0])]


def test_two_participants_and_a_killed_server(browser: Any, server: Server) -> None:
    begun = time.monotonic()
    random = Visitor(browser, server, viewport={"width": 1280, "height": 860})
    named = Visitor(browser, server, "P-7", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    random.agree()
    named.agree()
    assert named.who == "P-7" != random.who
    for turn in range(4):
        random.answer(double=turn == 1, key=turn > 1)
        named.answer()
        assert not any(secret in random.page.content() for secret in (*METHODS, "mystery"))
    server.stop(signal.SIGKILL)
    assert Store(server.study).progress(random.who) == Store(server.study).progress("P-7") == (4, TOTAL)
    named.page.click("#left:visible, #other:visible")  # nobody is there to take it
    server.start()
    named.open("P-7")
    named.asked(5)
    for _ in range(4, TOTAL):  # the other one never loaded the page again
        random.answer(key=True)
        named.answer()
    random.thanked()
    named.thanked()
    named.page.reload()
    named.thanked()
    people, taken = {person.id: person for person in Store(server.study).participants()}, time.monotonic() - begun
    assert people.keys() >= {random.who, "P-7"}
    for visitor in (random, named):
        answers = people[visitor.who].answers
        assert {i: answer.answer for i, answer in enumerate(answers)} == visitor.given
        assert len(answers) == TOTAL
        assert all(0.25 <= answer.seconds < taken for answer in answers)
        assert visitor.hosts == {"127.0.0.1"}
        assert [text for text in visitor.errors if "ERR_CONNECTION" not in text] == []
    assert not (server.folder / "files").exists() or not any((server.folder / "files").rglob("*.png"))
    check_report(server)


def check_report(server: Server) -> None:
    """Two people who always preferred the first method and always saw what was meant."""
    assert main.main(["study", "report", str(server.study)]) == 0
    report = json.loads((server.study / "report.json").read_text())
    assert report["participants"]["counted"] == 2
    for figures in report["comparisons"].values():
        assert figures["wins"] == {METHODS[0]: {METHODS[1]: 4}, METHODS[1]: {METHODS[0]: 0}}
        assert figures["scores"][METHODS[0]]["score"] == pytest.approx(np.log(4.5 / 0.5) / 2)
    found = report["identification"]
    assert sum(rates["all"]["right"] for rates in found["accuracy"].values()) == found["answers"] == 4
    assert found["alpha"] == 1


def test_links_and_hasty_clicks(browser: Any, server: Server) -> None:
    Visitor(browser, server, "%3Cb%3E").page.get_by_text("This link is not complete").wait_for()
    visitor = Visitor(browser, server, "hasty")
    visitor.agree()
    kind = visitor.next()[1].kind
    button = "other" if kind == "emotion" else "left"
    visitor.page.evaluate(f"window.asked = performance.now(); document.getElementById('{button}').click()")
    visitor.page.wait_for_timeout(700)
    assert Store(server.study).progress("hasty") == (0, TOTAL)
    visitor.answer()
    assert Store(server.study).progress("hasty") == (1, TOTAL)
