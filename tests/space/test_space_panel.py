"""The demo's panel as people who stay in it use it: all emotions at once, one edit after the other, presets, keys."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_space import WAITING, Visit, demo_of, opened

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.provenance.verify import verify

pytest.importorskip("gradio")
ASTRONAUT, HOPPER, BOTH = range(3)  # the page's examples
LEFT, RIGHT = np.s_[:, :400], np.s_[:, 400:]  # of the one with both
CONTRAST = """() => {
  const colour = (text) => { const parts = text.match(/[\\d.]+/g).map(Number); return [...parts, 1].slice(0, 4); };
  const over = (top, under) => top.slice(0, 3).map((value, i) => value * top[3] + under[i] * (1 - top[3]));
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(colour(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), bad = [];
  let count = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    const said = /[\\p{L}\\p{N}]/u.test(text);
    const seen = said && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!seen || element.closest(":disabled, [aria-disabled=true], script, style")) continue;
    const style = getComputedStyle(element), below = ground(element), size = parseFloat(style.fontSize);
    const [dark, bright] = [light(over(colour(style.color), below)), light(below)].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    count += 1;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return [count, bad];
}"""  # WCAG 2.1, 1.4.3


@pytest.fixture(scope="module")
def url(pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the demo of the bundled pipeline, in this process."""
    with demo_of(pipe, tmp_path_factory.mktemp("panel")) as url:
        yield url


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Visit]:
    with opened(browser, url) as visit:
        yield visit


def give(visit: Visit, example: int) -> None:
    """One of the page's example photos; the sliders, which are unfolded, then are where it is."""
    visit.page.locator("#units button").first.click()
    visit.page.locator("#photo-part .gallery-item").nth(example).click()
    moved = "() => [...document.querySelectorAll('#units input[type=range]')].some((slider) => slider.value != 0)"
    visit.page.wait_for_function(moved, timeout=WAITING)


SETTLED = "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 50))"


def wait_told(visit: Visit, words: str) -> np.ndarray:
    """The result that these words are said of; gradio's page may show it a moment after them."""
    said = "(words) => document.getElementById('told')?.textContent.trim() === words"
    visit.page.wait_for_function(said, arg=words, timeout=WAITING)
    visit.page.evaluate(SETTLED)
    return np.asarray(visit.result())[..., :3].astype(int)


def slider_values(visit: Visit) -> list[float]:
    return visit.page.locator("#units input[type=range]").evaluate_all("all => all.map((one) => Number(one.value))")


def test_all_eight_at_once_and_one_of_them(visit: Visit) -> None:
    visit.page.locator("#all").click()
    visit.says("Upload a photo first.")
    give(visit, HOPPER)
    visit.page.locator("#all").click()
    small = visit.page.locator("#eight img")
    small.nth(7).wait_for(timeout=WAITING)
    names = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]
    assert small.evaluate_all("all => all.map((one) => one.alt)") == names
    assert not visit.page.locator("#result").is_visible()
    visit.page.locator("#eight button").nth(5).click()
    picked = wait_told(visit, "Disgust 100 %")
    assert picked.shape == (600, 512, 3)
    assert not visit.page.locator("#eight").is_visible()
    visit.page.keyboard.press("3")
    wait_told(visit, "Sad 100 %")
    visit.page.keyboard.press("6")
    assert (wait_told(visit, "Disgust 100 %") == picked).all()  # as a click on the emotion itself


def test_edits_one_after_the_other_and_back(visit: Visit) -> None:
    give(visit, ASTRONAUT)
    own = slider_values(visit)
    visit.click("Sad")
    sad = wait_told(visit, "Sad 100 %")
    visit.page.locator("#go-on").click()
    visit.page.wait_for_function("() => !document.querySelector('#emotion input:checked')", timeout=WAITING)
    went = slider_values(visit)
    assert went[0] > own[0] + 0.2  # the inner brows of a sad face are up, and the slider is where they are
    visit.click("Surprise")
    both = wait_told(visit, "Sad 100 %, then Surprise 100 %")
    assert (both != sad).any()
    looks = visit.page.locator("#looks img")
    assert looks.evaluate_all("all => all.map((one) => one.alt)") == [
        "The photo",
        "Sad 100 %",
        "Sad 100 %, then Surprise 100 %",
    ]
    visit.page.locator("#undo").click()
    assert (wait_told(visit, "Sad 100 %") == sad).all()
    visit.page.locator("#redo").click()
    assert (wait_told(visit, "Sad 100 %, then Surprise 100 %") == both).all()
    visit.page.locator("#looks button").first.click()
    photo = wait_told(visit, "The photo")
    assert (photo != sad).any() and slider_values(visit) == own
    visit.page.locator("#looks button").nth(2).click()
    wait_told(visit, "Sad 100 %, then Surprise 100 %")
    visit.page.locator("#to-photo").click()
    assert (wait_told(visit, "The photo") == photo).all()
    assert looks.count() == 4 and slider_values(visit) == own


def test_each_face_keeps_its_own_edit(visit: Visit) -> None:
    give(visit, BOTH)
    choice = visit.page.locator("#face")
    choice.get_by_text("1", exact=True).click()
    visit.page.locator("#emotion").get_by_text("Anger").click()
    first = wait_told(visit, "Face 1: Anger 100 %")
    choice.get_by_text("2", exact=True).click()
    visit.page.wait_for_function("() => !document.querySelector('#emotion input:checked')", timeout=WAITING)
    visit.page.locator("#emotion").get_by_text("Happy").click()
    both = wait_told(visit, "Face 1: Anger 100 % · Face 2: Happy 100 %")
    assert (both[LEFT] == first[LEFT]).all() and (both[RIGHT] != first[RIGHT]).any()
    choice.get_by_text("1", exact=True).click()
    visit.page.wait_for_function(
        "() => document.querySelector('#emotion input:checked')?.value === 'anger'", timeout=WAITING
    )
    visit.page.keyboard.press("ArrowLeft")
    weaker = wait_told(visit, "Face 1: Anger 95 % · Face 2: Happy 100 %")
    assert (weaker[LEFT] != both[LEFT]).any()
    far = np.abs(weaker[RIGHT] - both[RIGHT]).mean()
    assert far < 0.1 * np.abs(first[RIGHT] - both[RIGHT]).mean()


def test_sliders_start_where_the_photo_is(visit: Visit) -> None:
    give(visit, HOPPER)
    own = slider_values(visit)
    assert not visit.page.locator("#result img").count()  # nothing was asked yet
    brows = visit.page.locator("#units input[type=number]").first
    brows.fill(str(round(own[0] + 0.3, 2)))
    brows.press("Tab")
    raised = wait_told(visit, "Inner brows up +0.30")
    visit.page.locator("#units").get_by_role("button", name="Reset to the photo").click()
    wait_told(visit, "The photo")
    visit.wait_for_another(raised)
    assert slider_values(visit) == own
    visit.page.keyboard.press("z")
    assert (wait_told(visit, "Inner brows up +0.30") == raised).all()


def test_presets_are_kept_given_and_opened(browser: Any, url: str, visit: Visit, tmp_path: Path) -> None:
    give(visit, HOPPER)
    visit.click("Sad")
    wait_told(visit, "Sad 100 %")
    visit.page.locator("#go-on").click()
    visit.page.wait_for_function("() => !document.querySelector('#emotion input:checked')", timeout=WAITING)
    visit.page.locator("#emotion").get_by_text("Fear").click()
    made = wait_told(visit, "Sad 100 %, then Fear 100 %")
    visit.page.locator("#presets button").first.click()
    visit.page.locator("#preset-name textarea, #preset-name input").fill("Worried")
    visit.page.locator("#preset-save").click()
    field = "document.querySelector('#preset-link textarea, #preset-link input')"
    visit.page.wait_for_function(f"() => {field}?.value.startsWith('http')", timeout=WAITING)
    link = visit.page.evaluate(f"() => {field}.value")
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.page.locator("#preset-file").click()
    assert download.value.suggested_filename == "Worried.json"
    preset = json.loads(Path(download.value.path()).read_text("utf-8"))
    edits = [{"emotion": "sad", "intensity": 1}, {"emotion": "fear", "intensity": 1}]
    assert preset == {"name": "Worried", "edits": edits}
    assert json.loads(urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["edits"][0]) == edits
    with opened(browser, link) as other:  # which has nothing of the first visitor's but the settings
        other.says("Preset “Worried”")
        assert not other.page.locator("#looks").is_visible()
        other.page.locator("#photo-part .gallery-item").nth(HOPPER).click()
        assert (wait_told(other, "Sad 100 %, then Fear 100 %") == made).all()
        other.page.locator("#presets button").first.click()
        for name, text, sentence in (
            ("letter", "Dear all", "This is no preset"),
            ("joy", '{"name": "x", "edits": [{"emotion": "joy"}]}', "Unknown emotion 'joy'"),
            ("secret", '{"name": "x", "edits": [{"reference": "/etc/passwd"}]}', "This is no preset"),
        ):
            (tmp_path / f"{name}.json").write_text(text)
            other.page.set_input_files("#presets input[type=file]", str(tmp_path / f"{name}.json"))
            other.says(sentence)
    visit.page.goto(url)
    visit.page.locator("#presets button").first.click()
    visit.page.locator("#preset input").click()
    visit.page.get_by_role("option", name="Worried").click()
    visit.says("Preset “Worried”")


def test_keys_and_what_is_told_to_those_who_do_not_see(visit: Visit) -> None:
    give(visit, HOPPER)
    visit.click("Happy")
    wait_told(visit, "Happy 100 %")
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowDown")
    wait_told(visit, "Happy 90 %")
    visit.page.keyboard.press("5")
    wait_told(visit, "Fear 90 %")
    visit.page.keyboard.press("z")
    wait_told(visit, "Happy 90 %")
    visit.page.keyboard.press("Shift+Z")
    wait_told(visit, "Fear 90 %")
    alts = "() => [...document.querySelectorAll('#result img')].map((image) => image.alt)"
    assert visit.page.evaluate(alts) == ["The photo", "Fear 90 %"]
    visit.page.locator("#presets button").first.click()
    name = visit.page.locator("#preset-name textarea, #preset-name input")
    name.click()
    visit.page.keyboard.type("1z2")
    assert name.input_value() == "1z2"
    visit.page.wait_for_timeout(500)
    wait_told(visit, "Fear 90 %")  # keys that are typed do nothing else


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_and_fit_a_phone(browser: Any, url: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(WAITING)
    visit = Visit(context.new_page())
    visit.page.goto(url)
    visit.page.locator("#emotion").wait_for()
    give(visit, BOTH)
    visit.page.locator("#emotion").get_by_text("Happy").click()
    wait_told(visit, "Face 2: Happy 100 %")
    glance = visit.page.locator("#glance")  # the picture, while the sliders below it are seen and it is not
    assert not glance.is_visible()
    for part in ("pose", "sampling", "presets"):
        visit.page.locator(f"#{part} button").first.click()
    glance.wait_for(timeout=WAITING)
    assert glance.get_attribute("src") == visit.page.locator("#result img").nth(1).get_attribute("src")
    count, bad = visit.page.evaluate(CONTRAST)
    assert count > 60 and not bad
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    context.close()


def test_a_photo_lends_its_pose_beside_an_emotion(visit: Visit, tmp_path: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut[:, ::-1]).save(tmp_path / "turned.png", compress_level=1)
    give(visit, HOPPER)
    visit.page.locator("#lending button").first.click()
    visit.page.set_input_files("#reference input[type=file]", str(tmp_path / "turned.png"))
    expression = wait_told(visit, "Expression of turned.png 100 %")
    lends = visit.page.locator("#lends input")
    lends.nth(1).check()
    wait_told(visit, "Expression and head pose of turned.png 100 %")
    lends.nth(0).uncheck()
    pose = wait_told(visit, "Head pose of turned.png 100 %")
    visit.page.locator("#emotion").get_by_text("Happy").click()  # it takes no place of an emotion's
    happy = wait_told(visit, "Happy 100 %, Head pose of turned.png 100 %")
    visit.page.locator("#undo").click()
    assert (wait_told(visit, "Head pose of turned.png 100 %") == pose).all()
    assert [one.is_checked() for one in lends.all()] == [False, True]
    assert (expression != pose).any() and (happy != pose).any()
    lends.nth(1).uncheck()
    wait_told(visit, "The photo")


def download_as(visit: Visit, name: str) -> Any:
    """A download, which has a name."""
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.page.locator("#download").click()
    assert download.value.suggested_filename == name
    return download.value


def test_results_are_given_in_other_formats(visit: Visit, tmp_path: Path, astronaut: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Eileen Collins"  # ImageDescription
    Image.fromarray(astronaut).save(tmp_path / "me.jpg", exif=exif, dpi=(240, 240), quality=95)
    visit.upload(tmp_path / "me.jpg")
    visit.click("Happy")
    shown = wait_told(visit, "Happy 100 %")
    for name, suffix in (("JPEG", "jpg"), ("WebP", "webp")):
        visit.page.locator("#format").get_by_text(name).click()
        download_as(visit, f"me_edited.{suffix}").save_as(tmp_path / f"result.{suffix}")
        with Image.open(tmp_path / f"result.{suffix}") as file:
            assert file.format == name.upper() and file.getexif()[0x010E] == "Eileen Collins"
            assert np.abs(np.asarray(file).astype(int) - shown).mean() < (2 if name == "JPEG" else 1e-9)
        found = verify(tmp_path / f"result.{suffix}")
        assert found.by_us and found.metadata.edit and found.mark and found.mark.marked
    visit.click("Sad")  # what is made next comes in the same format
    sad = wait_told(visit, "Sad 100 %")
    with Image.open(download_as(visit, "me_edited.webp").path()) as file:
        assert (np.asarray(file) == sad).all()


def test_large_photos_are_shown_small_and_given_in_full(visit: Visit, tmp_path: Path, astronaut: np.ndarray) -> None:
    large = Image.fromarray(astronaut).resize((2048, 2048), Image.Resampling.LANCZOS)
    large.save(tmp_path / "large.png", compress_level=1)
    visit.upload(tmp_path / "large.png")
    visit.click("Happy")
    shown = visit.result()
    assert shown.size == (1600, 1600)
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.page.locator("#download").click()
    with Image.open(download.value.path()) as file:
        full = file.convert("RGB")
    assert full.size == (2048, 2048)
    difference = np.asarray(full.resize(shown.size)).astype(int) - np.asarray(shown.convert("RGB"))
    assert np.abs(difference).mean() < 1
    assert (np.asarray(full) != np.asarray(large)).any()


def test_a_click_before_the_photo_is_read_counts(visit: Visit, tmp_path: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(np.hstack([astronaut] * 2)).resize((2400, 1200)).save(tmp_path / "both.png", compress_level=1)
    visit.upload(tmp_path / "both.png")
    visit.click("Surprise")
    visit.result()
    assert "not in the list" not in visit.page.locator("body").inner_text()
    choices = visit.page.locator("#face label")
    assert [one.inner_text() for one in choices.all() if one.is_visible()] == ["All", "1", "2"]
