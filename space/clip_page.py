"""The tab of clips: its components."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from faces import face_part
from gradio.components import Component
from jobs import Job, job, status
from offer import Offer
from parts import emotion_choice, strength_slider, upload, upload_clip
from texts import say

PLAY_BOTH = """() => document.querySelectorAll("#clip-stage-part video").forEach((player) => {
  player.currentTime = 0;
  player.play();
})"""


@dataclass(frozen=True)
class ClipPage:
    """The components that events read and write.

    Attributes:
        clip: Upload; its value is the path of the untouched file.
        preview, face, frames: A frame with numbered faces, the choice among them, and number -> frame of a face there.
        emotion, strength: What to do, and how strongly.
        photo: Upload of a photo that the clip moves instead.
        job: Does it.
        stage: Before, after, download, and the button that plays both.
    """

    clip: gr.Video
    preview: gr.Image
    face: gr.Radio
    frames: gr.State
    emotion: gr.Radio
    strength: gr.Slider
    photo: gr.Image
    job: Job
    stage: list[Component]

    @property
    def inputs(self) -> list[Component]:
        """What an edit depends on, in the order of `clip_tab.show`."""
        return [self.clip, self.emotion, self.strength, self.face, self.photo]


def lay_out(offer: Offer) -> ClipPage:
    """Create the tab's components, for what a pipeline can do."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_id="clip-part"):
            clip = upload_clip(say("clip"), sources=["upload", "webcam"], elem_id="clip")
            preview, face = face_part("clip-face", "people")
        with gr.Column(elem_id="clip-mood-part"):
            emotion, strength = emotion_choice(offer.emotions, "clip-emotion"), strength_slider("clip-strength")
            with gr.Accordion(say("clip.photo"), open=False, visible=offer.head):
                gr.Markdown(say("clip.photo.about"), elem_classes="about")
                photo = upload(say("photo"), ["upload", "clipboard"], height=220, elem_id="driven")
            run, stop = job(say("clip.run"), variant="primary", size="lg", elem_id="run-clip")
        with gr.Column(elem_id="clip-stage-part"):
            line = status()
            with gr.Row():
                before, after = (
                    gr.Video(label=say(f"clip.{name}"), interactive=False, buttons=[], elem_id=name)
                    for name in ("before", "after")
                )
            with gr.Row():
                both = gr.Button(say("clip.play"), interactive=False)
                download = gr.DownloadButton(say("clip.download"), interactive=False, elem_id="download-clip")
    both.click(fn=None, js=PLAY_BOTH)
    stage: list[Component] = [before, after, download, both]
    return ClipPage(clip, preview, face, gr.State({}), emotion, strength, photo, Job(run, stop, line), stage)
