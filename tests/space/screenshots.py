"""Pictures of the demo's panel for README.md, taken with the machine's Chromium.

python tests/space/screenshots.py [FOLDER]     # panel.webp and panel_phone.webp, in docs/ by default
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from conftest import CHROMIUM, FLAGS  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from test_space import REPOSITORY, WAITING, serve  # noqa: E402

DESKTOP, PHONE = (1280, 1000), (390, 844)  # CSS px, as browsers' windows and an iPhone have them
SHARP = 2  # pixels of a phone's picture for each CSS px
QUALITY = 80  # of WebP
ASTRONAUT = 0  # the page's examples
SETTLED = 1500  # ms, in which pages stop moving
READ = 6000  # ms, in which the demo has read a photo's faces


@contextmanager
def page_of(browser: Any, url: str, size: tuple[int, int], scale: int = 1) -> Iterator[Any]:
    """The demo with the astronaut's photo in a window of a size."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, device_scale_factor=scale, locale="en-US", color_scheme="light")
    page = context.new_page()
    page.goto(url)
    page.locator("#emotion").wait_for()
    page.locator("#photo-part .gallery-item").nth(ASTRONAUT).click()
    page.locator("#photo img").wait_for(timeout=WAITING)
    page.wait_for_timeout(READ)
    yield page
    context.close()


def click(page: Any, emotion: str) -> None:
    """Choose an emotion and wait for what it makes."""
    page.locator("#emotion").get_by_text(emotion).click()
    said = "(name) => document.getElementById('told')?.textContent.includes(name)"
    page.wait_for_function(said, arg=emotion, timeout=WAITING)


def take(page: Any, path: Path) -> None:
    """Write what the window shows."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLED)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=QUALITY, method=6)
    print(path)


def main(folder: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as files,
        serve(Path(files)) as url,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with page_of(browser, url, DESKTOP) as page:
            click(page, "Sad")
            click(page, "Surprise")
            page.locator("#all").click()
            page.locator("#eight img").nth(7).wait_for(timeout=WAITING)
            take(page, folder / "panel.webp")
        with page_of(browser, url, PHONE, SHARP) as page:
            click(page, "Surprise")
            take(page, folder / "panel_phone.webp")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs")
