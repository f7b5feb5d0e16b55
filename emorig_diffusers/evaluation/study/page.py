"""The page of a study: consent, instructions, one question at a time, thanks.

The server keeps nothing of a visit: a page says with every answer whose it is and to which question, and shows what
the store says comes next. Hence a server can be killed and started again at any moment.
"""

from __future__ import annotations

import html
import math
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from ...serving import asgi_options, limit_connections
from ...sessions import limit_sessions
from .pictures import Folders, picture_address, ruined_address
from .plan import ASKED, NAMED, SIDES, Design, Question, plan_questions
from .store import Store, StudyError

PARTICIPANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
MIN_SECONDS = 0.25  # quicker is the second half of a double click, or nobody who looked
TYPICAL_SECONDS = 6  # for an answer
THANKS = "## Thank you!\n\nAll your answers are saved. You can close this page."
QUIET = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
STAGES = ("consent", "instructions", "question", "closing")

CSS = """
.gradio-container { width: 100%; max-width: 1080px !important; margin: 0 auto !important;
  padding: 20px 24px !important; }
.gradio-container > .main { width: 100%; padding: 0 !important; }
#asked, #asked * { padding: 0; }
#consent, #instructions, #closing { max-width: 640px; margin: 6vh auto 0; gap: 20px; }
#consent h2, #instructions h2, #closing h2 { font-size: 1.6rem; letter-spacing: -0.02em; margin-top: 0; }
#consent .prose, #instructions .prose, #closing .prose { font-size: 1.05rem; line-height: 1.6; }
#question { gap: 14px; }
.progress { display: flex; align-items: center; gap: 14px; font-size: 0.9rem;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.progress div { flex: 1; height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.progress i { display: block; height: 100%; background: var(--color-accent); }
.asked { margin: 4px 0 14px; font-size: 1.7rem; font-weight: 650; letter-spacing: -0.02em; text-align: center; }
.pictures { display: grid; gap: 14px; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
.pictures figure { margin: 0; }
.pictures img { display: block; width: 100%; max-height: calc(100vh - 300px); min-height: 120px;
  object-fit: contain; margin: 0; }
.pictures.one img { max-height: calc(100vh - 400px); min-height: 200px; }
.pictures figcaption { text-align: center; margin-top: 6px; font-size: 0.95rem;
  color: var(--body-text-color-subdued); }
#sides { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
#named { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; max-width: 640px; width: 100%;
  margin: 0 auto; }
#sides button, #named button { min-width: 0; min-height: 52px; border: 1px solid var(--border-color-primary); }
button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.hint { text-align: center; font-size: 0.85rem; color: var(--body-text-color-subdued); }
@media (hover: none) { .hint { display: none; } }
@media (max-width: 700px) {
  .gradio-container { padding: 12px !important; }
  .asked { font-size: 1.3rem; margin: 2px 0 10px; }
  .pictures, #sides { gap: 8px; }
  .pictures.person { grid-auto-flow: row; grid-template-columns: 1fr 1fr;
    grid-template-areas: "original original" "left right"; }
  .person .left { grid-area: left; } .person .right { grid-area: right; }
  .person .original { grid-area: original; width: 60%; margin: 0 auto; }
  .pictures img { max-height: none; }
  #consent, #instructions, #closing { margin-top: 2vh; }
}
"""

KEYS = """() => {
  window.asked = performance.now();
  const shown = (id) => { const e = document.getElementById(id); return e && e.offsetParent ? e : null; };
  document.addEventListener("keydown", (event) => {
    if (event.repeat) { event.preventDefault(); return; }
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const side = {ArrowLeft: 0, ArrowRight: 1}[event.key];
    const row = side === undefined ? shown("named") : shown("sides");
    const button = row && row.querySelectorAll("button")[side === undefined ? event.key - 1 : side];
    if (button) { event.preventDefault(); button.click(); }
  });
}"""
CLOCK = "(...sent) => [...sent.slice(0, -1), (performance.now() - window.asked) / 1000]"
RESET = """(position) => {
  if (position !== window.position) { window.position = position; window.asked = performance.now(); scrollTo(0, 0); }
}"""
REMEMBER = """(who) => {
  const url = new URL(location); url.searchParams.set("participant", who); history.replaceState(null, "", url);
}"""


@dataclass(frozen=True)
class Page:
    """The components: those of a stage are in `stages`, what an answer carries in `sent`."""

    stages: dict[str, gr.Column]
    sent: tuple[Component, Component, Component]
    consent: gr.Markdown
    agree: gr.Button
    start: gr.Button
    instructions: gr.Markdown
    asked: gr.HTML
    sides: gr.Row
    named: gr.Row
    closing: gr.Markdown

    @property
    def outputs(self) -> list[Block]:
        """What a view can change."""
        shown = [self.consent, self.instructions, self.asked, self.sides, self.named, self.closing]
        return [*self.stages.values(), *self.sent[:2], *shown]


class Study:
    """A study as it is asked.

    Attributes:
        store: Where answers are kept.
        folders: Where the pictures are.
        design: What is asked.
        consent: Markdown that everyone has to agree to.
    """

    def __init__(self, store: Store, folders: Folders, design: Design, consent: str) -> None:
        self.store, self.folders, self.design, self.consent = store, folders, design, consent

    def open(self, page: Page, request: gr.Request) -> dict[Block, Any]:
        """What a new visitor sees, or one who comes back with `?participant=…`."""
        who = request.query_params.get("participant") or secrets.token_hex(6)
        if not PARTICIPANT.fullmatch(who):
            return _view(page, "closing", {page.closing: "## This link is not complete\n\nPlease ask for a new one."})
        if self.store.progress(who)[1]:
            return self.show(page, who)
        text = f"{self.consent}\n\nYour participant id: `{who}`"
        return _view(page, "consent", {page.consent: text, page.sent[0]: who})

    def join(self, page: Page, who: str) -> dict[Block, Any]:
        """Somebody agrees: their questions are stored."""
        self.store.join(who, partial(plan_questions, self.design))
        return self.show(page, who)

    def answer(self, page: Page, answer: str, who: str, position: float, seconds: float | None) -> dict[Block, Any]:
        """Keep an answer, then show the next question; nothing for a click that is too quick."""
        if seconds is None or not math.isfinite(seconds) or seconds < MIN_SECONDS:
            return gr.skip()
        self.store.record(who, int(position), answer, seconds)
        return self.show(page, who)

    def show(self, page: Page, who: str, started: bool = False) -> dict[Block, Any]:
        """The stage that a participant has reached."""
        answered, total = self.store.progress(who)
        following = self.store.next_question(who)
        if following is None:
            return _view(page, "closing", {page.closing: f"{THANKS}\n\nYour participant id: `{who}`"})
        if not answered and not started:
            text = instructions(self.design, total)
            return _view(page, "instructions", {page.instructions: text, page.sent[0]: who})
        position, question = following
        named = question.kind == "emotion"
        return _view(page, "question", {
            page.sent[0]: who,
            page.sent[1]: position,
            page.asked: draw_progress(answered, total) + draw_question(self.folders, position, question),
            page.sides: gr.update(visible=not named),
            page.named: gr.update(visible=named),
        })  # fmt: skip


def instructions(design: Design, total: int) -> str:
    """What a participant should know before the first of `total` questions, as Markdown."""
    told = {
        "real": "You see two pictures. Choose the one that looks more like a real photo.",
        "person": "You see a person and two other pictures. Choose the one that looks more like this same person.",
        "emotion": "You see one picture. Choose the emotion that the face shows, or “other”.",
    }
    lines = "\n".join(f"- **{ASKED[kind]}** {told[kind]}" for kind in design.kinds)
    minutes = math.ceil(total * TYPICAL_SECONDS / 60)
    return f"""## How it works

{total} questions, about {minutes} {"minute" if minutes == 1 else "minutes"}:

{lines}

Go by your first impression: there is no right or wrong. If you cannot decide, guess. A few questions only check that
you are paying attention. If you have to break off, come back to this page's address and go on where you stopped.
"""


def draw_progress(answered: int, total: int) -> str:
    """HTML of a bar: how much of the study is done."""
    share = 100 * answered / total
    return f'<div class="progress"><div><i style="width: {share:.1f}%"></i></div>{answered + 1} of {total}</div>'


def draw_question(folders: Folders, position: int, question: Question) -> str:
    """HTML of a question's words and pictures; the side that an attention check wants avoided is ruined."""
    words = ASKED[question.kind]
    paths = [folders.edit(method, question.emotion, question.photo) for method in question.methods]
    if question.kind == "emotion":
        words = words if question.check is None else f"Please choose “{question.check.capitalize()}” here."
        shown = [_figure("one", "A face", picture_address(paths[0]))]
    else:
        ruined = [question.check not in (None, side) for side in SIDES]
        shown = [
            _figure(side, f"{side} picture", ruined_address(path, position) if bad else picture_address(path))
            for side, path, bad in zip(SIDES, paths, ruined)
        ]
    if question.kind == "person":
        original = picture_address(Path(folders.source or "") / question.photo)
        shown.insert(1, _figure("original", "The person", original, caption=True))
    layout = {"real": "pair", "person": "person", "emotion": "one"}[question.kind]
    return f'<h2 class="asked">{html.escape(words)}</h2><div class="pictures {layout}">{"".join(shown)}</div>'


def _figure(name: str, alt: str, address: str, caption: bool = False) -> str:
    below = f"<figcaption>{alt}</figcaption>" if caption else ""
    return f'<figure class="{name}"><img alt="{alt}" src="{address}">{below}</figure>'


def _view(page: Page, stage: str, values: dict[Block, Any]) -> dict[Block, Any]:
    """One stage with its values, the others hidden."""
    return {page.stages[name]: gr.update(visible=name == stage) for name in STAGES} | values


def _friendly(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, telling mistakes in one sentence on the page."""

    def run(*values: Any) -> Any:
        try:
            return step(*values)
        except StudyError as error:
            raise gr.Error(html.escape(str(error), quote=False)) from error

    return run


def lay_out() -> Page:
    """Create the components inside an open `gr.Blocks`."""
    sent = (gr.Textbox(visible=False), gr.Number(visible=False), gr.Number(visible=False))
    with gr.Column(visible=False, elem_id="consent") as consent_stage:
        consent = gr.Markdown()
        agree = gr.Button("I agree and take part", variant="primary", size="lg", elem_id="agree")
    with gr.Column(visible=False, elem_id="instructions") as instructions_stage:
        told = gr.Markdown()
        start = gr.Button("Start", variant="primary", size="lg", elem_id="start")
    with gr.Column(visible=False, elem_id="question") as question_stage:
        asked = gr.HTML(elem_id="asked")
        with gr.Row(elem_id="sides") as sides:
            gr.Button("← Left", size="lg", elem_id="left")
            gr.Button("Right →", size="lg", elem_id="right")
        with gr.Row(elem_id="named") as named:
            for name in NAMED:
                gr.Button(name.capitalize(), size="lg", elem_id=name)
        gr.HTML('<p class="hint">Keys: ← and → for left and right, 1 to 9 for the emotions.</p>')
    with gr.Column(visible=False, elem_id="closing") as closing_stage:
        closing = gr.Markdown()
    stages: dict[str, gr.Column] = dict(zip(STAGES, (consent_stage, instructions_stage, question_stage, closing_stage)))
    return Page(stages, sent, consent, agree, start, told, asked, sides, named, closing)


def wire(page: Page, study: Study, blocks: gr.Blocks) -> None:
    """Connect the page's buttons to the study."""
    who, position, _ = page.sent
    shown = {"outputs": page.outputs, **QUIET}
    clock = {"fn": None, "inputs": position, "js": RESET}

    def opened(request: gr.Request) -> dict[Block, Any]:
        return _friendly(partial(study.open, page))(request)

    blocks.load(opened, None, **shown).then(**clock)
    joined = page.agree.click(_friendly(partial(study.join, page)), who, **shown)
    joined.then(fn=None, inputs=who, js=REMEMBER)
    begun = page.start.click(_friendly(partial(study.show, page, started=True)), who, **shown)
    begun.then(**clock)
    for answer, button in zip((*SIDES, *NAMED), (*page.sides.children, *page.named.children)):
        given = _friendly(partial(study.answer, page, answer))
        if isinstance(button, gr.Button):
            button.click(given, list(page.sent), js=CLOCK, **shown).then(**clock)


def theme() -> gr.themes.Base:
    """Indigo on grey with the reader's own fonts: the page loads nothing from elsewhere."""
    fonts: dict[str, Any] = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    base = gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", radius_size="lg", **fonts)
    return base.set(background_fill_primary="*neutral_50", body_text_color_subdued="*neutral_500")


def build_page(study: Study) -> gr.Blocks:
    """The page around a study; its style is given when it is launched."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with gr.Blocks(title="User study", analytics_enabled=False, fill_width=True) as blocks:
        wire(lay_out(), study, blocks)
    return blocks


def serve(study: Study, host: str, port: int | None, announce: Callable[[str], None]) -> None:
    """Serve a study until it is interrupted; `announce` is called with the address as soon as it answers.

    Raises:
        StudyError: The address is taken, or not one of this machine.
    """
    blocks = build_page(study)
    style = {"theme": theme(), "css": CSS, "js": KEYS, "footer_links": [], "run_history": False}
    place = {"server_name": host, "server_port": port, "share": False, "ssr_mode": False, "max_file_size": "1kb"}
    place |= asgi_options({"study": "open"})  # nothing is uploaded to a study
    try:
        _, address, _ = blocks.launch(**style, **place, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        where = f"{host}:{port}" if port else host
        raise StudyError(f"Cannot serve at {where}: give another --host or --port.") from error
    limit_connections(blocks.server)
    limit_sessions(blocks)
    announce(address)
    blocks.block_thread()
