"""The page in each visitor's language: it is built once, with marks for texts, and sent with the texts."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from texts import translated, wanted_language

KINDS = ("text/html", "application/json")


class Translator:
    """ASGI middleware that translates the page and its configuration.

    Args:
        app: What answers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].rstrip("/").rpartition("/")[2] not in ("", "config"):
            await self.app(scope, receive, send)
            return
        wanted = wanted_language(Headers(scope=scope), QueryParams(scope["query_string"]))
        start: dict[str, Any] = {}
        body = b""

        async def translate(message: Any) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            headers = MutableHeaders(scope=start)
            if not headers.get("content-type", "").startswith(KINDS):
                if start:
                    await send(start)
                    start = {}
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                said = translated(body, wanted)
                if scope["method"] != "HEAD":
                    headers["content-length"] = str(len(said))
                headers.add_vary_header("Accept-Language")
                await send(start)
                await send({"type": "http.response.body", "body": said})

        await self.app(scope, receive, translate)
