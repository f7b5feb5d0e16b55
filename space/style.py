"""How the page looks."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from texts import LANGUAGES, NAMES

ACCENT = "#4f46e5"
SAYS = {  # what is said by the page's style, and where
    "#result .empty::after": "result.empty",
    "#after .empty::after": "clip.empty",
    "#sheet .empty::after": "compare.empty",
    "#batch-table .prose:empty::after": "batch.empty",
    ":is(#batch-photos, #clip, #scan) .wrap:has(> .or)::after": "drop.file",
    "#prompt .submit-button::after": "prompt.run",
    **{f".toast-title.{kind}::before": kind for kind in ("warning", "info", "error")},  # else English, whatever is said
}
WORDS = {"photo": "look.photo"}  # what the page's script says
SWITCH = "changeLocale"  # what gradio's page calls the function that does it

HEAD = """<script>
  // one language for gradio's own words, ours, and the server's (texts.wanted_language): the one that the address
  // names, or else the first of the browser's that is here
  const asked = [new URLSearchParams(location.search).get("lang") ?? "", ...navigator.languages];
  const spoken = asked.map((tag) => tag.toLowerCase().split("-")[0]).find((tag) => LANGUAGES.includes(tag)) ?? "en";
  Object.defineProperty(navigator, "language", { get: () => spoken });
  document.documentElement.lang = spoken;
</script>"""


def head() -> str:
    """What the page does before all else."""
    return HEAD.replace("LANGUAGES", json.dumps(list(LANGUAGES)))


def language_links() -> str:
    """Links to the page in every language; page.js takes them without leaving it."""
    links = (f'<a href="?lang={code}" hreflang="{code}" lang="{code}">{name}</a>' for code, name in NAMES.items())
    return f"<nav>{' · '.join(links)}</nav>"


def css() -> str:
    """Of the page, with what it says."""
    says = (
        f'html[lang="{code}"] {where} {{ content: {json.dumps(table[key], ensure_ascii=False)}; }}'
        for code, table in LANGUAGES.items()
        for where, key in SAYS.items()
    )
    others = ", ".join(f'html[lang="{code}"] .said:not([lang="{code}"])' for code in LANGUAGES)
    return "\n".join([Path(__file__).with_name("page.css").read_text("utf-8"), f"{others} {{ display: none; }}", *says])


def script() -> str:
    """What the page does by itself, with the words it needs."""
    source = Path(__file__).with_name("page.js").read_text("utf-8")
    words = {code: {name: table[key] for name, key in WORDS.items()} for code, table in LANGUAGES.items()}
    for name, value in {"WORDS": words, "CORE": core_module(), "SWITCH": SWITCH}.items():
        source = source.replace(f"${name}", json.dumps(value))
    return source


def core_module() -> str:
    """Path, below the page's address, of the module of gradio's page that switches its language; its name changes with
    every version."""
    frontend = Path(gr.__file__).parent / "templates" / "frontend"
    files = sorted(frontend.glob("assets/core-*.js"))
    return next((str(file.relative_to(frontend)) for file in files if SWITCH in file.read_text("utf-8")), "")


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
        button_secondary_background_fill_hover_dark="*neutral_500",  # also of buttons that cannot be pressed
        input_border_color="*neutral_300",
        input_border_width="1px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )
