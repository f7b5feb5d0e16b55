"""A server forgets whom it has served."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_space import REPOSITORY
from test_space_soak import soak

gr = pytest.importorskip("gradio")
sessions = pytest.importorskip("emorig_diffusers.sessions")

VISITS = 12


pytestmark = pytest.mark.filterwarnings("ignore:This MCP server includes a tool that has a gr.State")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page, served as the demo is, with buttons that use a session's state, none of it, and change the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "space"))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("files")))
        import app

        with gr.Blocks(analytics_enabled=False) as blocks:
            count, shown = gr.State([]), gr.Textbox(label="text")
            gr.Button().click(lambda count: count.append(1) or str(len(count)), count, shown, api_name="count")
            gr.Button().click(lambda text: text, shown, shown, api_name="say")
            gr.Button().click(lambda: gr.update(label="other"), None, shown, api_name="change")
        app.launch(blocks, quiet=True)
        yield blocks
        blocks.close()


@pytest.fixture
def demo(served: Any) -> Any:
    """It, with no sessions."""
    served.app.state_holder.session_data.clear()
    return served


def left_after(demo: Any, done: Callable[[], bool]) -> None:
    """Wait until something is so, for some of gradio's rounds of forgetting."""
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, list(demo.app.state_holder.session_data)
        time.sleep(0.05)


def test_sessions_are_light_and_forgotten(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, held, queue = demo.local_url, demo.app.state_holder.session_data, demo._queue
    for _ in range(VISITS):
        assert soak.call(url, "say", {"text": "hello"})[1]["output"]["data"] == ["hello"]
    for _ in range(2):
        assert soak.call(url, "count", {})[1]["output"]["data"] == ["1"]  # each one its own
    soak.call(url, "change", {})
    assert len(held) == VISITS + 3 and not any(session.config_values for session in held.values())
    monkeypatch.setattr(sessions, "IDLE", 0.0)
    left_after(demo, lambda: len(held) == 3)  # those that hold something stay
    assert set(queue.pending_messages_per_session) | set(queue.pending_event_ids_session) <= set(held)
    next(iter(held.values())).is_closed = True  # as gradio does where a page is closed
    monkeypatch.setattr(sessions, "CLOSED", 0.0)
    left_after(demo, lambda: len(held) == 2)
    monkeypatch.setattr(sessions, "OPEN", 0.0)
    left_after(demo, lambda: not held and not demo.app.state_holder.time_last_used)
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session


def test_of_very_many_sessions_the_oldest_go(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.app.state_holder, "capacity", 5)
    for _ in range(8):
        soak.call(demo.local_url, "count", {})
    assert len(demo.app.state_holder.session_data) == 5


def test_sessions_whose_job_waits_stay(demo: Any) -> None:
    held, queue = demo.app.state_holder, demo._queue
    for name, job in (("waits", "a"), ("is done", "b")):
        held[name].used = -sessions.OPEN
        queue.pending_event_ids_session[name] = {job}
    queue.event_ids_to_events["a"] = None
    held.delete_all_expired_state()
    assert list(held.session_data) == ["waits"]
