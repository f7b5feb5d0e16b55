"""How long visitors of the demo wait: from the release of a slider to the picture on their page, in a real browser.

    python tests/benchmarks/release_speed.py [--photo PHOTO] [--releases 12]

A photo (by default the astronaut's, 512 pixels) gets an emotion in a real `space/app.py` on the loopback; then its
strength is set, half of the times at once and half of the times by a drag of half a second. Prints medians and the
longest wait, the server's processor time of a release with its drag, and how many pictures were seen while dragging.
Other processes make waits longer: those of two idle cores count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE), str(HERE / "space")]

from conftest import CHROMIUM, FLAGS  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from test_space import WAITING, serve  # noqa: E402

WINDOW = {"width": 1280, "height": 1000}  # CSS px
DRAG, STEPS = 0.5, 10  # seconds of a drag, and the places on its way
MOVE = """async ([values, pause]) => {
  const slider = document.querySelector("#strength input[type=range]");
  const shown = () => document.querySelectorAll("#result img")[1]?.src;
  let seen = 0, last = shown();
  const look = () => { if (shown() !== last) { seen += 1; last = shown(); } };
  for (const value of values) {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    for (const end = performance.now() + pause; performance.now() < end; look()) {
      await new Promise((done) => setTimeout(done, 10));
    }
  }
  const begun = performance.now(), words = `${Math.round(100 * values.at(-1))} %`;
  slider.dispatchEvent(new Event("pointerup", { bubbles: true }));
  const said = () => document.getElementById("told").textContent.includes(words);
  const ready = () => said() && document.querySelectorAll("#result img")[1].complete;
  while (!ready()) await new Promise(requestAnimationFrame);
  return [(performance.now() - begun) / 1000, seen];
}"""


def measure(page: Any, server: psutil.Process, values: list[float], pause: float) -> tuple[float, float, int]:
    """Seconds from a release to its picture; the server's processor time from the first move on; pictures before."""
    spent = sum(server.cpu_times()[:2])
    seconds, seen = page.evaluate(MOVE, [values, 1000 * pause])
    return seconds, sum(server.cpu_times()[:2]) - spent, seen


def main() -> None:
    parser = argparse.ArgumentParser(description="How long visitors wait for a picture.")
    parser.add_argument("--photo", type=Path, help="by default the page's first example")
    parser.add_argument("--releases", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as files, serve(Path(files)) as url, sync_playwright() as driver:
        [server] = psutil.Process().children()[:1]
        page = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(viewport=WINDOW, locale="en-US")
        page.goto(url)
        page.locator("#emotion").wait_for()
        if args.photo:
            page.set_input_files("#photo input[type=file]", str(args.photo))
        else:
            page.locator("#photo-part .gallery-item").first.click()
        page.locator("#photo img").wait_for(timeout=WAITING)
        begun = time.monotonic()
        page.locator("#emotion").get_by_text("Happy").click()
        page.locator("#result img").nth(1).wait_for(timeout=WAITING)
        print(f"first edit, after the photo: {time.monotonic() - begun:.2f} s")
        for name, steps, pause in (("at once", 1, 0.0), ("by a drag", STEPS, DRAG / STEPS)):
            made = []
            for i in range(args.releases // 2):
                first, last = (0.4, 1.4 - 0.05 * i) if i % 2 else (1.4, 0.4 + 0.05 * i)
                values = [round(first + (last - first) * (j + 1) / steps, 2) for j in range(steps)]
                made.append(measure(page, server, values, pause))
            waits, spent, seen = zip(*made)
            print(
                f"set {name}: {statistics.median(waits):.2f} s to the picture, {max(waits):.2f} s at most; "
                f"{statistics.median(spent):.2f} s of processor time; {statistics.mean(seen):.1f} pictures before"
            )


if __name__ == "__main__":
    main()
