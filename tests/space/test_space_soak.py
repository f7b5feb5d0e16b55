"""What the demo's server bears, in short; `tests/benchmarks/soak.py` is the long form."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_space import REPOSITORY

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.serving import MOST_WAITING, Guard, limit_connections, one_person

pytest.importorskip("gradio")
sys.path.append(str(REPOSITORY / "tests" / "benchmarks"))
import soak

CLIENTS = 3
SECONDS, RATE = 0.6, 1000.0  # for a request, in which 100 bytes are worth a sixth of it
PATIENCE = 60  # seconds for what is there at once on an idle machine


OTHERS = {"h5py", "tensorboard", "lmdb", "cma", "peft", "c2pa", "torch_fidelity", "torchvision", "pytest"}
"""Packages of other extras than the demo's, which its server must not need."""
DEMO = f"""
import runpy, sys
sys.modules |= dict.fromkeys({OTHERS})
sys.path.insert(0, {str(REPOSITORY / "space")!r})
runpy.run_path({str(REPOSITORY / "space" / "app.py")!r}, run_name="__main__")
"""


def test_many_at_once_get_their_own_and_nobody_elses(pipe: EmoRigPipeline, tmp_path: Path) -> None:
    """From a server that has no more packages than the demo's requirements."""
    report, askers = soak.Report(), soak.marked_photos(tmp_path, CLIENTS)
    soak.expect(askers, ["happy"], pipe)
    with soak.serve(["-c", DEMO], tmp_path) as (url, server):
        halves = soak.Halves(url, 12)
        threads = [threading.Thread(target=soak.edit, args=(url, asker, "happy", report)) for asker in askers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not work_at(url):
            time.sleep(0.01)
        soak.flood(url, MOST_WAITING + 10, report)  # while edits are made
        for thread in threads:
            thread.join()
        soak.ask_for_others(url, askers[0], tmp_path / "files", report)
        soak.send_too_much(url, report)
        status, answer = soak.request(url, "health")
        halves.close()
        assert server.poll() is None
    soak.check_log(tmp_path / "log", report)
    assert report.faults == []
    assert report.counts["results as expected"] + report.counts["told to come again"] == CLIENTS
    assert report.counts["results as expected"]
    told = json.loads(answer)
    assert status == 200 and told["model"] == "emorig-open" and re.fullmatch(r"\d+\.\d+.*", told["version"])
    assert told["queue"]["most_waiting"] == MOST_WAITING


def work_at(url: str) -> int:
    """How many jobs a server has."""
    queue = json.loads(soak.request(url, "health")[1])["queue"]
    return queue["running"] + queue["waiting"]


@contextmanager
def answering() -> Iterator[tuple[Any, int]]:
    """A server that answers after a while, and its port."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await asyncio.sleep(2 * SECONDS)  # an answer may take longer than a request
        await send({"type": "http.response.body", "body": b"done"})

    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_keep_alive=30)
    config.load()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def timed_server() -> Iterator[int]:
    """The port of a server that waits SECONDS for requests."""
    with answering() as (server, port):
        limit_connections(server, SECONDS, RATE)
        yield port


@pytest.mark.parametrize("begun", ["", "GET / HTTP/1.1\r\nHost: h\r\nX: ", "POST / HTTP/1.1\r\nHost: h\r\n"
    "Content-Length: 1000\r\n\r\nabc"])  # fmt: skip
@pytest.mark.parametrize("again", [False, True])
def test_requests_that_do_not_arrive_are_ended(begun: str, again: bool, timed_server: int) -> None:
    if again and not begun:
        return  # nothing at all after an answer is what uvicorn limits itself
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", timed_server), timeout=PATIENCE) as connection:
        if again:  # on a connection that has had an answer
            connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = b""
            while not answer.endswith(b"done"):
                answer += connection.recv(1000)
            start = time.monotonic()
        connection.sendall(begun.encode())
        connection.setblocking(False)
        closed = False
        while not closed and time.monotonic() < start + PATIENCE:
            time.sleep(SECONDS / 10)
            try:
                connection.send(b"a")  # a byte now and then does not help
                closed = connection.recv(1000) == b""
            except BlockingIOError:
                pass
            except OSError:
                closed = True
        assert closed and time.monotonic() - start > 0.9 * SECONDS


def test_requests_that_arrive_slowly_but_surely_are_answered(timed_server: int) -> None:
    """It takes longer than its first part alone may; a part is worth four pauses, as busy machines pause longer."""
    part = b"x" * int(2 * SECONDS * RATE)
    with socket.create_connection(("127.0.0.1", timed_server), timeout=PATIENCE) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (9 * len(part)) + part)
        for _ in range(8):
            time.sleep(SECONDS / 2)
            connection.sendall(part)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def connected(port: int, text: str = "") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(text.encode())
    return connection


def test_connections_of_the_launch_are_limited_too() -> None:
    """Those that were made before; who has sent all of a request is answered however long that takes."""
    with answering() as (server, port):
        halves = [connected(port), connected(port, "GET / HTTP/1.1\r\nHost: h\r\nX: ")]
        halves.append(connected(port, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc"))
        whole = connected(port, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        there = server.server_state.connections
        while len(there) < 4 or all(one.cycle is None or one.cycle.more_body for one in list(there)):
            time.sleep(0.01)  # until the whole request has arrived, whose answer takes longer than a request may
        limit_connections(server, SECONDS, RATE)
        assert whole.recv(1000).startswith(b"HTTP/1.1 200")
        for one in halves:
            with suppress(ConnectionResetError):
                assert one.recv(1000) == b""
            one.close()
        whole.close()


@pytest.mark.parametrize("whose", ["all", "one"])
def test_connections_are_so_many_and_no_more(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused is told in a sentence, and how the server is; those that come in masses are closed."""
    monkeypatch.setattr("emorig_diffusers.serving.one_person", lambda address: address == "127.0.0.1")
    monkeypatch.setattr("emorig_diffusers.serving.MOST_REFUSED", 3)
    with answering() as (server, port):
        limit_connections(server, 30, RATE, **({"most": 2} if whose == "all" else {"most_of_one": 2}))
        first = [connected(port, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(2)]
        refused = connected(port, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        said = "".join(part.decode() for part in iter(lambda: refused.recv(1000), b""))  # until it is closed
        assert said.startswith("HTTP/1.1 503") and "retry-after: 10" in said
        what = {"all": "Many people are here at the moment", "one": "2 connections of your address are open"}[whose]
        assert f"{what}: please try again in about 10 seconds." in said
        assert connected(port, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n").recv(1000).startswith(b"HTTP/1.1 200")
        assert all(one.recv(1000).startswith(b"HTTP/1.1 200") for one in first)
        if whose == "all":
            idle = [connected(port) for _ in range(6)]
            with suppress(ConnectionResetError):
                assert idle[-1].recv(1000) == b""
        for one in first:
            one.close()
        until = time.monotonic() + PATIENCE
        while len(server.server_state.connections) > 1 and time.monotonic() < until:
            time.sleep(0.05)
        again = connected(port, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert again.recv(1000).startswith(b"HTTP/1.1 200")


def test_who_may_be_many_is_not_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private networks, this machine, and proxies that uvicorn was told of."""
    assert [one_person(it) for it in ("8.8.8.8", "2606:4700::1", "10.0.0.7", "127.0.0.1", "::1", "testclient")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "1.1.1.1, 8.8.8.8")
    assert not one_person("8.8.8.8") and one_person("9.9.9.9")


class Queue:
    """A queue of gradio's, in which so many jobs of so many seconds wait."""

    max_size = 3

    def __init__(self, waiting: int, seconds: float, host: str = "127.0.0.1") -> None:
        asked = SimpleNamespace(client=SimpleNamespace(host=host))
        jobs = [SimpleNamespace(fn="edit", request=asked)] * waiting
        self.event_queue_per_concurrency_id = {"edit": SimpleNamespace(queue=jobs, concurrency_limit=1)}
        self.process_time_per_fn = {"edit": SimpleNamespace(avg_time=seconds)}

    def __len__(self) -> int:
        return len(self.event_queue_per_concurrency_id["edit"].queue)

    def get_active_worker_count(self) -> int:
        return 1


def ask_guard(
    path: str, queue: Queue, folder: Path | None, chunks: list[bytes], host: str = "127.0.0.1", answer: int = 200
) -> tuple[int, dict, dict]:
    """Status, headers and content of what a guard before an app answers to a POST from an address."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": answer, "headers": []})
        await send({"type": "http.response.body", "body": b'"let in"'})

    sent, left = [], list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    blocks = SimpleNamespace(get_blocks=lambda: SimpleNamespace(_queue=queue))
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "app": blocks, "client": (host, 1)}
    asyncio.run(Guard(app, {"model": "m"}, folder, 5_000_000)(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), json.loads(body["body"])


def test_whoever_comes_when_too_many_wait_is_told_how_long(tmp_path: Path) -> None:
    path = "/gradio_api/queue/join"
    assert ask_guard(path, Queue(2, 30.0), tmp_path, [b"{}"])[0] == 200
    status, headers, content = ask_guard(path, Queue(3, 30.0), tmp_path, [b"{}"])
    assert status == 429 and headers[b"retry-after"] == b"90"
    assert content["detail"].endswith("and 3 jobs wait: please try again in about 2 minutes.")
    status, _, content = ask_guard(path, Queue(2, 30.0), tmp_path, [b"{}"], answer=503)  # others came meanwhile
    assert status == 429 and "2 jobs wait: please try again" in content["detail"]
    status, _, content = ask_guard("/health", Queue(3, 30.0), tmp_path, [b""])
    assert status == 200 and content["queue"] == {"running": 1, "waiting": 3, "most_waiting": 3, "seconds": 90.0}


def test_nobody_has_all_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one address so many jobs may wait; others, and those who may be many, are let in."""
    monkeypatch.setattr("emorig_diffusers.serving.MOST_OF_ONE_WAITING", 2)
    path = "/gradio_api/call/edit"
    ask = lambda waiting, of, host: ask_guard(path, Queue(waiting, 30.0, of), tmp_path, [b"{}"], host)
    status, headers, content = ask(2, "8.8.8.8", "8.8.8.8")
    assert status == 429 and headers[b"retry-after"] == b"60"
    assert content["detail"] == "2 jobs of your address wait: please try again in about a minute."
    let_in = (1, "8.8.8.8", "8.8.8.8"), (2, "8.8.8.8", "9.9.9.9"), (2, "10.0.0.1", "10.0.0.1")
    assert {ask(*one)[0] for one in let_in} == {200}


def test_bodies_are_counted_whatever_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = [b"x" * 2_000_000] * 3
    monkeypatch.setattr("emorig_diffusers.serving.REQUEST_BYTES", 4_000_000)
    assert ask_guard("/gradio_api/upload", Queue(0, 0), tmp_path, large)[0] == 413
    assert ask_guard("/gradio_api/upload", Queue(0, 0), tmp_path, large[:2])[0] == 200
    assert ask_guard("/gradio_api/run/edit", Queue(0, 0), tmp_path, large)[0] == 413
    assert ask_guard("/gradio_api/upload", Queue(0, 0), None, [b"x"])[0] == 404


def test_uploads_leave_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10_000_000))
    status, _, content = ask_guard("/gradio_api/upload", Queue(0, 0), tmp_path, [b"x"])
    assert status == 507 and "nearly full" in content["detail"]


@pytest.fixture
def visitors(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "space"))
    import visitors

    return visitors


def test_what_visitors_left_is_deleted_on_time(
    visitors: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").mkdir()
    upload, kept, job = (tmp_path / name for name in ("a" * 64, "b" * 64, "c" * 32))
    for folder in (upload, kept, job, tmp_path / "somebody's"):
        folder.mkdir()
        (folder / "file.png").write_bytes(b"x")
    half, other = tmp_path / "tmpabcd_123", tmp_path / "notes.txt"
    half.touch()
    other.touch()
    (tmp_path / ("d" * 64)).symlink_to(tmp_path / "examples")
    now = time.time
    needed = {str(kept / "file.png")}

    def left(after: float) -> set[str]:
        monkeypatch.setattr(visitors.time, "time", lambda: now() + after)
        visitors.clear(tmp_path, needed)
        return {path.name[:3] for path in tmp_path.iterdir()}

    stay = {"exa", "bbb", "som", "not", "ddd"}
    assert left(0) == stay | {"aaa", "ccc", "tmp"}
    assert left(visitors.HALF_SENT + 60) == stay | {"aaa", "ccc"}
    assert left(visitors.DELETE[1] + 60) == stay


def test_visitors_files_are_this_users_alone(
    visitors: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(visitors.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = visitors.files_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(OSError, match="is a link: set GRADIO_TEMP_DIR"):
        visitors.files_folder()


def test_a_space_can_be_duplicated(pipe: EmoRigPipeline, visitors: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import app

    def shown() -> list[bool]:
        parts = app.build_demo(pipe).config["components"]
        return [part["props"]["visible"] for part in parts if part["props"].get("elem_id") == "duplicate"]

    assert shown() == [False]
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "you/emorig")
    assert shown() == [True]


def test_the_container_is_built_of_what_is_here() -> None:
    """Docker itself is not asked: it runs in few places."""
    lines = (REPOSITORY / "space" / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines]
    assert (
        words[0] == ["FROM", "python:3.11-slim"]
        and 'python_version: "3.11"' in (REPOSITORY / "space" / "README.md").read_text()
    )
    assert {line[0] for line in words} <= {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "HEALTHCHECK", "CMD"}
    for line in words:
        if line[0] == "COPY":
            assert all((REPOSITORY / "space" / name).exists() for name in line[1:-1])
    *_, program = json.loads(lines[-1].removeprefix("CMD "))
    assert (REPOSITORY / "space" / program).exists()
    assert words.index(["USER", "visitor"]) < len(words) - 1  # it does not run as root
