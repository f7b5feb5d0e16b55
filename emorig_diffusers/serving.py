"""What servers that strangers reach have to bear: requests that never end, that are too large, that nobody offers to
answer, and more work than two cores do. How a server is, says `/health`.

`asgi_options` go to gradio's `launch`, `limit_reading` to what has been launched.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .version import __version__

READ_SECONDS = 20.0  # in which a request has to arrive, as Apache's mod_reqtimeout has it
READ_RATE = 500.0  # bytes a second by which that time grows, likewise
MOST_WAITING = 32  # jobs of all queues that wait; whoever comes then is asked to come again
REQUEST_BYTES = 20_000_000  # of a request that is no upload: values of a page, photos that agents give as text
FREE_BYTES = 1_000_000_000  # that an upload leaves on the disk
ARENAS = 2  # places from which all threads take memory, one for each of two cores
_M_ARENA_MAX = -8  # of malloc.h
REFUSED = ("/gradio_api/proxy=", "/gradio_api/file=http:", "/gradio_api/file=https:", "/gradio_api/process_recording",
           "/monitoring")  # fmt: skip
"""What gradio serves beside the page: other servers' files, FFmpeg for screen recordings, and figures of its queue."""
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
        path, answered = scope["path"], False

        async def sending(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            if path.rstrip("/") == "/health":
                await _answer(send, 200, self.health(scope))
                return
            self._check(scope, path)
            await self.app(scope, self._limited(scope, receive), sending)
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
                seconds = waiting_seconds(queue)
                raise _Refused(429, busy(len(queue), seconds), seconds)
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
    """Let the threads of this process share their memory, where its C library is GNU's: with places of its own for each
    of gradio's threads, a server keeps 1.2 GB for edits of which 0.8 are needed."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


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


def busy(jobs: int, seconds: float) -> str:
    """What is said to whoever comes when too many wait."""
    when = "in a while" if seconds < 1 else f"in about {_spoken(seconds)}"
    return f"Many people are here at the moment, and {jobs} jobs wait: please try again {when}."


def _spoken(seconds: float) -> str:
    if seconds < 60:
        return f"{max(math.ceil(seconds / 10) * 10, 10)} seconds"
    minutes = math.ceil(seconds / 60)
    return "a minute" if minutes == 1 else f"{minutes} minutes"


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


def limit_reading(server: Any, seconds: float = READ_SECONDS, rate: float = READ_RATE) -> None:
    """Let a running uvicorn server close connections whose request does not arrive in time, of those made from now on.

    Args:
        server: The server.
        seconds: For a request of no bytes.
        rate: Bytes that add a second.
    """
    base = server.config.http_protocol_class

    class Timed(base):
        """A connection that waits so long for a request; uvicorn itself limits the time between requests only."""

        _timer: asyncio.TimerHandle | None = None
        _end = 0.0
        _before: Any = None  # the request that was answered before

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begin()

        def data_received(self, data: bytes) -> None:
            if self._timer is None:
                self._begin()
            self._end += len(data) / rate
            super().data_received(data)
            if self.cycle is not self._before and not self.cycle.more_body:  # it is complete, and may be answered
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _begin(self) -> None:
            self._end, self._before = self.loop.time() + seconds, self.cycle
            self._timer = self.loop.call_later(seconds, self._look)

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

    server.config.http_protocol_class = Timed
