"""What takes a while: its controls, how far it is, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext
from texts import in_all, say
from visitors import inform, warn

PRIVATE = {"api_visibility": "private"}
QUIET = {"show_progress": "hidden", **PRIVATE}
IDLE = gr.update(visible=True), gr.update(visible=False)  # buttons that run and stop a job
RUNNING = gr.update(visible=False), gr.update(visible=True)


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        done: Frames made so far.
        total: All of them, where that is known.
        seconds: Since the first one.
        result: The file, once it is complete.
        notes: What else there is to say then.
    """

    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    result: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def html(self) -> str:
        """A bar, and the same in words."""
        if not self.done:
            return f"<progress></progress> {in_all(say('job.looking'))}"
        total = max(self.total or 0, self.done)
        said = [say("job.frame" if self.result is None else "job.frames", done=self.done, total=total)]
        if self.done > 1:
            rate = (self.done - 1) / max(self.seconds, 1e-6)
            said.append(say("job.rate", rate=rate))
            if self.done < total:
                said.append(say("job.left", seconds=(total - self.done) / rate))
        return f'<progress value="{self.done}" max="{total}"></progress> {in_all(*said)}'


@dataclass(frozen=True)
class Job:
    """Controls of what takes a while.

    Attributes:
        run, stop: Buttons; the second one is visible while it lasts.
        status: How far it is.
    """

    run: gr.Button
    stop: gr.Button
    status: gr.HTML

    @property
    def components(self) -> list[Component]:
        return [self.run, self.stop, self.status]


def job(name: str, **options: Any) -> tuple[gr.Button, gr.Button]:
    """A button with a name and gradio's options, and the one that stops what it does."""
    return gr.Button(name, **options), gr.Button(say("stop"), variant="stop", visible=False)


def status() -> gr.HTML:
    """The line that says how far a job is."""
    return gr.HTML(visible=False, elem_classes="progress", padding=False)


def wire_job(job: Job, function: Callable[..., Any], inputs: Sequence[Any], stage: Sequence[Any], queue: str) -> Any:
    """Connect the controls of what takes a while to what does it, one visitor of a queue after the other, who see that
    they wait, and how long; the event.

    gradio's page asks the server to cancel an event and meanwhile runs what else a click does, in no order; when the
    event is over it runs what follows its failure. So only that may say that the job has stopped, and offer another.
    """
    outputs = [*job.components, *stage]
    asked = job.run.click(waiting, None, job.components, queue=False, **QUIET)
    turn = {"concurrency_id": queue, "concurrency_limit": 1, "show_progress_on": job.status, **PRIVATE}
    event = asked.then(function, inputs, outputs, **turn)
    event.failure(stopped, None, job.components, queue=False, **QUIET)
    job.stop.click(None, cancels=[event], **QUIET)
    return event


def steps(
    job: Iterator[Progress], empty: tuple[Any, ...], stage: Callable[[str], tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """What the page shows of a job: its controls, and its stage, which is empty until there is a result."""
    begun = False
    try:
        for progress in job:
            line = gr.update(value=progress.html, visible=True)
            if progress.result is not None:
                yield *IDLE, line, *stage(str(progress.result))
                for note in progress.notes:
                    inform(note)
            elif not begun:
                begun = True
                yield *RUNNING, line, *empty
            else:
                yield gr.skip(), gr.skip(), line, *(gr.skip(),) * len(empty)
    except gr.Error as error:
        warn(error.message)
        yield *IDLE, gr.update(value="", visible=False), *(gr.skip(),) * len(empty)


def others_wait() -> bool:
    """Whether there are jobs that nobody works on yet."""
    blocks = LocalContext.blocks.get()
    return bool(blocks and len(blocks._queue))


def waiting() -> tuple[Any, ...]:
    """The controls of a job that others may be before."""
    return *RUNNING, gr.update(value=f"<progress></progress> {in_all(say('job.waiting'))}", visible=True)


def stopped() -> tuple[Any, ...]:
    """The controls of a job that a visitor or a fault has stopped."""
    return *IDLE, gr.update(value=in_all(say("stopped")), visible=True)


def results(job: Iterator[Progress]) -> Iterator[str | None]:
    """Nothing for every frame, so that a program may cancel, and at last the result's path."""
    for progress in job:
        yield progress.result and str(progress.result)
