"""How the page looks."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from texts import NAMES, say

ACCENT = "#4f46e5"
EMPTY = {"#result": "result.empty", "#after": "clip.empty"}  # what is said where there is nothing yet

HEAD = """<script>
  // gradio's own words follow the browser's language: the one that the address names counts more
  const named = new URLSearchParams(location.search).get("lang");
  if (named) Object.defineProperty(navigator, "language", { get: () => named });
</script>"""


def language_links() -> str:
    """Links to the page in every language."""
    links = (f'<a href="?lang={code}" hreflang="{code}" lang="{code}">{name}</a>' for code, name in NAMES.items())
    return f"<nav>{' · '.join(links)}</nav>"


def css() -> str:
    """Of the page, with what it says where there is nothing yet."""
    says = (f"{where} .empty::after {{ content: {json.dumps(say(key))}; }}" for where, key in EMPTY.items())
    return "\n".join([Path(__file__).with_name("page.css").read_text("utf-8"), *says])


def script() -> str:
    """What the page does by itself, with the words it needs."""
    source = Path(__file__).with_name("page.js").read_text("utf-8")
    words = {"BEFORE": say("look.photo"), "LANGUAGE": say("language")}
    for name, text in words.items():
        source = source.replace(name, json.dumps(text))
    return source


def accents() -> gr.themes.Color:
    """Indigo, in shades on which white, and which on light grounds, have a contrast of 4.5 at least (WCAG's AA)."""
    indigo = gr.themes.colors.indigo
    shades = {name: getattr(indigo, name) for name in ("c50", "c100", "c200", "c300", "c400", "c900", "c950")}
    return gr.themes.Color(**shades, c500=ACCENT, c600="#4338ca", c700="#3730a3", c800="#312e81", name="indigo")


def theme() -> gr.themes.Base:
    """Indigo on grey with the reader's own fonts: the page loads nothing from elsewhere."""
    return gr.themes.Soft(
        primary_hue=accents(),
        neutral_hue="slate",
        radius_size="lg",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        background_fill_primary="*neutral_50",
        body_text_color_subdued="*neutral_500",
        block_title_background_fill="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
    )
