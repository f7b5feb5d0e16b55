"""The demo: a photo and an emotion in, the same person with that emotion out.

python space/app.py [--model emorig-open] [--with FOLDER] [--head FOLDER] [--host 127.0.0.1] [--port 7860] [--share]

A tab is a module with `build`, called below; texts are in texts.py, endpoints in api.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import api
import batch
import batch_tab
import clip_tab
import compare_tab
import editor
import gradio as gr
import photo_tab
import scan_tab
import style
import visitors
from comparing import Comparer
from gradio.utils import get_space, get_upload_folder
from jobs import QUIET
from offer import Offer
from texts import is_mark, marking, say, translations

from emorig_diffusers.cli.compare import open_others
from emorig_diffusers.cli.evaluate import labelled
from emorig_diffusers.cli.models import load_pipeline
from emorig_diffusers.cli.neural_heads import open_head
from emorig_diffusers.evaluation.compare import OtherPipeline
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.serving import MOST_WAITING, REQUEST_BYTES, asgi_options, limit_connections, share_memory
from emorig_diffusers.sessions import limit_sessions

MOST_BYTES = 200_000_000  # of a file; those of a batch come together


def build_demo(
    pipe: FacePipeline | None = None,
    head: NeuralHeadModel | None = None,
    name: str = "emorig-open",
    others: Mapping[str, OtherPipeline] | None = None,
) -> gr.Blocks:
    """The demo; its style is given when it is launched.

    Args:
        pipe: By default the bundled one.
        head: Is fitted to scans, if there is one.
        name: Of the pipeline.
        others: Further pipelines by their names, to compare it with.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # of which gradio makes a table after each; nobody may see it
    visitors.files_folder()
    edits = editor.Editor(editor.open_default() if pipe is None else pipe)
    comparer = Comparer(edits, name, others or {})
    blocks = gr.Blocks(title="EmoRig", analytics_enabled=False, delete_cache=visitors.DELETE, fill_width=True)
    with blocks as demo, marking():
        with gr.Row(elem_id="top"):
            gr.Markdown(say("title"), elem_id="title")
            gr.HTML(style.language_links(), elem_id="languages", padding=False)
        retell = gr.Button(visible="hidden", elem_id="retell")
        with gr.Tabs():
            photo = photo_tab.build(edits, Path(get_upload_folder()) / "examples", retell)
            batch_tab.build(edits, photo.presets.kept)
            clip_tab.build(edits)
            compare_tab.build(comparer)
            scan_tab.build(head)
        gr.Markdown(say("note"), elem_id="note")
        gr.DuplicateButton(say("duplicate"), visible=get_space() is not None, elem_id="duplicate")
        api.build(edits, comparer, head)
        told = marked_again(demo)
        retell.click(lambda: told, None, [*told], **QUIET)
    return demo.queue(max_size=MOST_WAITING)


def marked_again(demo: gr.Blocks) -> dict[Any, Any]:
    """Marks of texts once more: gradio's page translates those of what it shows, but not of what it has not shown yet,
    or has hidden for a while."""
    marked = {}
    for block in demo.blocks.values():
        props = ["label", "placeholder", *["value"] * isinstance(block, (gr.Button, gr.Markdown))]
        texts = {name: getattr(block, name, None) for name in props}
        texts = {name: text for name, text in texts.items() if isinstance(text, str) and is_mark(text)}
        if texts and not isinstance(block, gr.Image):  # an upload takes no updates (`parts.upload`)
            marked[block] = gr.update(**texts)
    return marked


def launch(demo: gr.Blocks, name: str = "emorig-open", **where: Any) -> str:
    """Serve the demo of a pipeline in its style, with gradio's options of where, in a thread; its address."""
    folder = visitors.files_folder()
    looks = {"theme": style.theme(), "css": style.css(), "js": style.script(), "head": style.head()}
    looks |= {"footer_links": ["api"], "run_history": False, "i18n": gr.I18n(**translations())}
    agents = find_spec("mcp") is not None  # every endpoint is a tool for agents, at /gradio_api/mcp/
    where |= {"max_file_size": MOST_BYTES, "ssr_mode": False, "prevent_thread_lock": True, "mcp_server": agents}
    guard = asgi_options({"model": Path(name).name}, folder, batch.MAX_BYTES + REQUEST_BYTES)
    _, address, _ = demo.launch(**looks, **guard, **where)
    limit_connections(demo.server)
    limit_sessions(demo)
    visitors.keep_clearing(folder, demo)
    return address


def main() -> None:
    """Parse the command line and serve the demo."""
    parser = argparse.ArgumentParser(description="Change the emotion of a face in a photo, in a browser.")
    parser.add_argument("--model", default="emorig-open", help="bundled name, folder or Hub id (default: %(default)s)")
    parser.add_argument("--head", metavar="FOLDER", help="a neural head, which is then fitted to uploaded scans")
    parser.add_argument("--with", metavar="[LABEL=]NAME[@STEPS]", dest="others", action="append", default=[],
        help="a pipeline to compare it with, a bundled name, folder or Hub id (repeatable)")  # fmt: skip
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for every network (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="open a public link; off by default")
    args = parser.parse_args()
    share_memory()
    try:
        name, others = next(iter(labelled([args.model, *args.others]))), open_others(args.others)
        pipe, head = load_pipeline(args.model), args.head and open_head(args.head)
    except ValueError as error:
        sys.exit(str(error))
    offer = Offer.of(pipe)
    if not offer.emotions and not offer.attributes:
        script = "fit_emotions.py" if offer.head else "train_emotion_classifier.py"
        sys.exit(f"The model '{args.model}' knows no emotions: convert or fit them first (train/{script}).")
    demo = build_demo(pipe, head, name, others)
    launch(demo, name, server_name=args.host, server_port=args.port, share=args.share)
    demo.block_thread()


if __name__ == "__main__":
    main()
