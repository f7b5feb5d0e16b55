"""What servers that strangers reach have to bear: requests that never end, that are too large, that nobody offers to
answer, more connections than there are files, and more work than two cores do. How a server is, says `/health`.

`asgi_options` go to gradio's `launch`, `limit_connections` to what has been launched.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .version import __version__

READ_SECONDS = 20.0  # in which a request has to arrive, as Apache's mod_reqtimeout has it
READ_RATE = 500.0  # bytes a second by which that time grows, likewise
MOST_CONNECTIONS = 500  # at once; a page keeps two, and a process may often open 1024 files
MOST_OF_ONE = 60  # of one address: those of ten browsers
MOST_REFUSED = 100  # further connections that are told why they are refused; those after them are closed
REFUSED_SECONDS = 2.0  # in which the request of a refused connection has to arrive
AGAIN = 10.0  # seconds after which who is refused a connection may try again
MOST_WAITING = 32  # jobs of all queues that wait; whoever comes then is asked to come again
MOST_OF_ONE_WAITING = 8  # of them, those of one address
REQUEST_BYTES = 20_000_000  # of a request that is no upload: values of a page, photos that agents give as text
FREE_BYTES = 1_000_000_000  # that an upload leaves on the disk
ARENAS = 2  # places from which all threads take memory, one for each of two cores
GIVING_BACK = 60.0  # seconds between two times that free memory is given back
_M_ARENA_MAX = -8  # of malloc.h
REFUSED = ("/gradio_api/proxy=", "/gradio_api/file=http:", "/gradio_api/file=https:", "/gradio_api/process_recording",
           "/gradio_api/deep_link", "/monitoring")  # fmt: skip
"""What gradio serves beside the page: other servers' files, FFmpeg for screen recordings, links to what a page shows,
whose files nobody deletes, and figures of its queue."""
QUEUED = "/gradio_api/queue/join", "/gradio_api/call/"  # what adds a job

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class _Refused(Exception):
    """Ends a request.

    Attributes:
        status: Of HTTP.
        seconds: After which it may be tried again, if it may.
    """

    def __init__(self, status: int, sentence: str, seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.seconds = status, seconds


class Guard:
    """Stands before a gradio app: answers `/health`, and refuses what is too much.

    Args:
        app: The ASGI app.
        facts: What `/health` tells beside the version and the queue.
        folder: Where uploads are kept; `None` where there are none.
        largest: Bytes of a request that uploads.
    """

    def __init__(self, app: App, facts: dict[str, Any], folder: Path | None = None, largest: int = 0) -> None:
        self.app, self.facts, self.folder, self.largest = app, facts, folder, largest
        self.start = time.monotonic()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, answered, full = scope["path"], False, False

        async def sending(message: Message) -> None:
            nonlocal answered, full
            if path.startswith(QUEUED) and message.get("status") == 503:
                full = True  # gradio says so in its own words where others came in the meantime
            if not full:
                answered = True
                await send(message)

        try:
            if path.rstrip("/") == "/health":
                await _answer(send, 200, self.health(scope))
                return
            self._check(scope, path)
            await self.app(scope, self._limited(scope, receive), sending)
            if full:
                raise _too_many_wait(_queue_of(scope))
        except _Refused as refused:
            if not answered:
                await _answer(send, refused.status, {"detail": str(refused)}, refused.seconds)
        except Exception as error:
            if type(error).__name__ != "ClientDisconnect":  # whoever broke off an upload needs no answer, and no trace
                raise

    def health(self, scope: Message) -> dict[str, Any]:
        """What `/health` tells: cheap, and answered whatever waits."""
        queue = _queue_of(scope)
        jobs = {"running": queue.get_active_worker_count(), "waiting": len(queue), "most_waiting": queue.max_size}
        return {
            "status": "ok",
            "version": __version__,
            **self.facts,
            "queue": {**jobs, "seconds": round(waiting_seconds(queue), 1)},
            "up_seconds": round(time.monotonic() - self.start),
        }

    def _check(self, scope: Message, path: str) -> None:
        """Refuse what nobody offers, uploads for which there is no room, and jobs where too many wait."""
        if path.startswith(REFUSED):
            raise _Refused(404, "There is nothing here.")
        if scope["method"] != "POST":
            return
        if path.startswith(QUEUED):
            queue = _queue_of(scope)
            if queue.max_size is not None and len(queue) >= queue.max_size:
                raise _too_many_wait(queue)
            if (own := _waiting_of(queue, scope.get("client"))) >= MOST_OF_ONE_WAITING:
                seconds = waiting_seconds(queue)
                raise _Refused(429, f"{own} jobs of your address wait: please try again {_when(seconds)}.", seconds)
        if _uploads(path):
            if self.folder is None:
                raise _Refused(404, "There is nothing to upload here.")
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < FREE_BYTES + self.largest:
                raise _Refused(507, "The disk of this server is nearly full: try again later.")

    def _limited(self, scope: Message, receive: Receive) -> Receive:
        """A request's body, which may be so long and no longer, whatever it says of itself."""
        most = self.largest if _uploads(scope["path"]) else REQUEST_BYTES
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        refused = _Refused(413, f"This is too large: {most / 1_000_000:g} MB are the most.")
        if lengths and lengths[0].isdigit() and int(lengths[0]) > most:
            raise refused
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise refused
            return message

        return limited


def share_memory() -> None:
    """Let the threads of this process share their memory, and give back what is free of it, where its C library is
    GNU's: with places of its own for each of gradio's threads, a server keeps 1.2 GB for edits of which 0.8 are needed,
    and of a place with something in use at its end nothing is given back by itself."""
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None

    def give_back() -> None:
        while True:
            time.sleep(GIVING_BACK)
            library.malloc_trim(0)

    with suppress(AttributeError):
        library.mallopt(_M_ARENA_MAX, ARENAS)
        threading.Thread(target=give_back, name="memory", daemon=True).start()


def _uploads(path: str) -> bool:
    return path.rstrip("/") == "/gradio_api/upload"


def _queue_of(scope: Message) -> Any:
    return scope["app"].get_blocks()._queue


def waiting_seconds(queue: Any) -> float:
    """How long the longest of gradio's queues would take with those that wait, as far as its jobs were seen before."""
    longest = 0.0
    for each in list(queue.event_queue_per_concurrency_id.values()):
        times = queue.process_time_per_fn
        known = [times[job.fn].avg_time for job in each.queue if job.fn in times]
        longest = max(longest, sum(known) / (each.concurrency_limit or max(len(known), 1)))
    return longest


def _too_many_wait(queue: Any) -> _Refused:
    seconds = waiting_seconds(queue)
    return _Refused(429, busy(len(queue), seconds), seconds)


def busy(jobs: int, seconds: float) -> str:
    """What is said to whoever comes when too many wait."""
    return f"Many people are here at the moment, and {jobs} jobs wait: please try again {_when(seconds)}."


def _when(seconds: float) -> str:
    if seconds < 1:
        return "in a while"
    if seconds < 60:
        return f"in about {max(math.ceil(seconds / 10) * 10, 10)} seconds"
    minutes = math.ceil(seconds / 60)
    return "in about a minute" if minutes == 1 else f"in about {minutes} minutes"


def one_person(address: str) -> bool:
    """Whether an address may be taken for one person's: none of a private network, nor of a proxy that uvicorn was told
    to trust, behind which many are."""
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_global and address not in _proxies()
    return False


def _proxies() -> list[str]:
    """Addresses whose word on who asks uvicorn takes; "*" for all."""
    return [word.strip() for word in os.environ.get("FORWARDED_ALLOW_IPS", "").split(",")]


def _waiting_of(queue: Any, client: tuple[str, int] | None) -> int:
    """How many jobs of a client wait; 0 where it may be many people."""
    if not client or not one_person(client[0]):
        return 0
    waiting = [job for each in list(queue.event_queue_per_concurrency_id.values()) for job in each.queue]
    return sum(bool(job.request.client) and job.request.client.host == client[0] for job in waiting)


async def _answer(send: Send, status: int, content: dict[str, Any], seconds: float | None = None) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"cache-control", b"no-store"), *([(b"connection", b"close")] if status >= 400 else [])]
    if seconds is not None:
        headers.append((b"retry-after", str(max(math.ceil(seconds), 1)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def asgi_options(facts: dict[str, Any], folder: Path | None = None, largest: int = 0) -> dict[str, Any]:
    """Options of gradio's `launch` that put a `Guard` before the app; arguments as there."""
    from starlette.middleware import Middleware

    return {"app_kwargs": {"middleware": [Middleware(Guard, facts=facts, folder=folder, largest=largest)]}}


def limit_connections(
    server: Any,
    seconds: float = READ_SECONDS,
    rate: float = READ_RATE,
    most: int = MOST_CONNECTIONS,
    most_of_one: int = MOST_OF_ONE,
) -> None:
    """Let a running uvicorn server close connections whose request does not arrive in time, counted from now for those
    that are open, and answer no more than so many.

    Args:
        server: The server.
        seconds: For a request of no bytes.
        rate: Bytes that add a second.
        most: Connections at once.
        most_of_one: Of one address, where that is one person's.
    """
    base = server.config.http_protocol_class

    class Limited(base):
        """A connection that waits so long for a request; uvicorn itself limits the time between requests only."""

        _timer: asyncio.TimerHandle | None = None
        _end = 0.0
        _before: Any = None  # the request that was answered before

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most + MOST_REFUSED:
                transport.abort()
                return
            sentence = self._too_many()
            if sentence:
                self.app = _refusing(self.app, sentence)
            self.begin(REFUSED_SECONDS if sentence else seconds)

        def data_received(self, data: bytes) -> None:
            if self._timer is None:
                self._before = self.cycle
                self.begin(seconds)
            self._end += len(data) / rate
            super().data_received(data)
            if self.cycle is not self._before and not self.cycle.more_body:  # it is complete, and may be answered
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def begin(self, limit: float) -> None:
            """Wait so long for the rest of a request."""
            self._end = self.loop.time() + limit
            self._timer = self.loop.call_later(limit, self._look)

        def _too_many(self) -> str | None:
            """What is said to a connection that is one too many."""
            if len(self.connections) > most:
                return f"Many people are here at the moment: please try again {_when(AGAIN)}."
            address = self.client[0] if self.client else ""
            if one_person(address) and "*" not in _proxies():
                own = sum(bool(one.client) and one.client[0] == address for one in self.connections)
                if own > most_of_one:
                    return f"{most_of_one} connections of your address are open: please try again {_when(AGAIN)}."
            return None

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _look(self) -> None:
            left = self._end - self.loop.time()
            if left > 0:
                self._timer = self.loop.call_later(left, self._look)
            elif self.transport.get_protocol() is self:  # it was not handed over to WebSockets
                self._timer = None
                self.transport.abort()

    def adopt() -> None:
        """Limit the connections that were made while the server was launched."""
        for one in list(server.server_state.connections):
            if type(one) is base:
                one.__class__ = Limited
                if one.cycle is None or one.cycle.more_body:
                    one.begin(seconds)

    server.config.http_protocol_class = Limited
    server.servers[0].get_loop().call_soon_threadsafe(adopt)


def _refusing(app: App, sentence: str) -> App:
    """An app that refuses everything but to say how it is."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") != "/health":
            await _answer(send, 503, {"detail": sentence}, AGAIN)
        else:
            await app(scope, receive, send)

    return refuse
