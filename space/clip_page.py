"""The tab of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component
from parts import Job, emotion_choice, face_part, job, status, strength_slider, upload_clip

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
        job: Does it.
        stage: Before, after, download, and the button that plays both.
    """

    clip: gr.Video
    preview: gr.Image
    face: gr.Radio
    frames: gr.State
    emotion: gr.Radio
    strength: gr.Slider
    job: Job
    stage: list[Component]

    @property
    def inputs(self) -> list[Component]:
        """What an edit depends on, in the order of `Editor.show_clip`."""
        return [self.clip, self.emotion, self.strength, self.face]


def lay_out(emotions: Sequence[str]) -> ClipPage:
    """Create the tab's components, for emotions that can be asked for."""
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_id="clip-part"):
            clip = upload_clip("Clip", sources=["upload", "webcam"], elem_id="clip")
            preview, face = face_part("clip-face", "people")
        with gr.Column(elem_id="clip-mood-part"):
            emotion, strength = emotion_choice(emotions, "clip-emotion"), strength_slider("clip-strength")
            run, stop = job("Change the clip", variant="primary", size="lg", elem_id="run-clip")
        with gr.Column(elem_id="clip-stage-part"):
            line = status()
            with gr.Row():
                before, after = (
                    gr.Video(label=label, interactive=False, buttons=[], elem_id=label.lower())
                    for label in ("Before", "After")
                )
            with gr.Row():
                both = gr.Button("Play both", interactive=False)
                download = gr.DownloadButton("Download MP4", interactive=False, elem_id="download-clip")
    both.click(fn=None, js=PLAY_BOTH)
    return ClipPage(
        clip, preview, face, gr.State({}), emotion, strength, Job(run, stop, line), [before, after, download, both]
    )
