"""What a gradio server remembers of whom it has served, and for how long.

gradio keeps the last 10,000 sessions, a page being one and every call of a program another, and for each of them a
description of all of the page's components, which of the demo's takes 0.4 MB. Here that is left out, and sessions
are forgotten.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from gradio.blocks import Blocks
from gradio.state_holder import SessionState, StateHolder

MOST = 1000  # sessions; of more the one that was used longest ago is forgotten
IDLE = 600.0  # seconds after which a session is forgotten that holds nothing, as that of a program, and its result
CLOSED = 3600.0  # after which that of a page is that was closed, or has lost its network
OPEN = 86400.0  # after which that of a page is that is open yet: its files go after a day


class Session(SessionState):
    """Values of a session, without descriptions of components, which only links to what a page shows need.

    Attributes:
        used: When it was used last, in seconds of `time.monotonic`.
        changed: Whether it has other components than the page as it is sent to everybody.
    """

    def __init__(self, blocks: Blocks) -> None:
        undescribed: Any = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(undescribed)
        self.used, self.changed = time.monotonic(), False

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()
        self.changed = True

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...

    @property
    def seconds(self) -> float:
        """For how long it is kept after it was used."""
        if self.is_closed:
            return CLOSED
        return OPEN if self.state_data or self.changed else IDLE


class Sessions(StateHolder):
    """Of a server: those that are not forgotten yet."""

    def __getitem__(self, session_id: str) -> SessionState:
        session = self.session_data.get(session_id)
        if not isinstance(session, Session):
            session = self.session_data[session_id] = Session(self.blocks)
        session.used = time.monotonic()
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Note that a session is used now, and forget those that are too many."""
        if session_id in self.session_data:
            self.session_data.move_to_end(session_id)
        while len(self.session_data) > self.capacity:
            self._forget(next(iter(self.session_data)))

    def delete_all_expired_state(self) -> None:
        """What gradio calls every second: forget sessions that wait for nothing and were not used for their time."""
        super().delete_all_expired_state()
        now = time.monotonic()
        for name, session in list(self.session_data.items()):
            old = isinstance(session, Session) and now - session.used > session.seconds
            if old and not self._waits(name):
                self._forget(name)

    def _waits(self, name: str) -> bool:
        queue = self.blocks._queue
        return any(job in queue.event_ids_to_events for job in queue.pending_event_ids_session.get(name, ()))

    def _forget(self, name: str) -> None:
        self.session_data.pop(name, None)
        self.time_last_used.pop(name, None)
        if not self._waits(name):  # else the job's messages have to arrive; gradio itself keeps names for ever
            queue = self.blocks._queue
            queue.pending_event_ids_session.pop(name, None)
            queue.pending_messages_per_session.pop(name, None)


def limit_sessions(blocks: Blocks) -> None:
    """Let a launched demo forget its visitors."""
    sessions = Sessions()
    sessions.set_blocks(blocks)
    sessions.capacity = MOST
    blocks.app.state_holder = sessions
