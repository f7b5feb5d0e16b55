"""The demo's languages, and its sentence: every text in both, the visitor's own on the page, and words as controls."""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_space import NO_FACE, WAITING, Visit, demo_of
from test_space_panel import CONTRAST, HOPPER, give, slider_values, wait_told

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.gaze import EYES_KEPT
from emorig_diffusers.models.occlusion import MOUTH_KEPT, MOUTH_NOT_LENT

pytest.importorskip("gradio")
UNREADABLE = "The photo '<b>.png' is not a readable picture: use JPEG, PNG, WebP or HEIC."
JAPANESE = "ぁ-んァ-ヶ一-龠"
OVERLAPS = """() => {
  // texts that end in an ellipsis or run out of what holds them, and buttons on each other
  const seen = (one) => one.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const labels = "button:not(.label-wrap), .label-wrap span:first-child, label span, h1, p, nav a";
  const texts = [...document.querySelectorAll(labels)].filter(seen);
  const cut = texts.filter((one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1);
  const controls = "[id$=mood-part] button, #past button, .choices label, nav a";
  const boxes = [...document.querySelectorAll(controls)].filter(seen);
  const over = [];
  boxes.forEach((one, i) => boxes.slice(i + 1).forEach((two) => {
    const a = one.getBoundingClientRect(), b = two.getBoundingClientRect();
    const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    if (!apart) over.push(`${one.textContent} / ${two.textContent}`);
  }));
  return [texts.length, cut.map((one) => `${one.textContent.trim()} ${one.clientWidth}/${one.scrollWidth}`), over];
}"""


@pytest.fixture(scope="module")
def url(pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the demo of the bundled pipeline, in this process."""
    with demo_of(pipe, tmp_path_factory.mktemp("words")) as url:
        yield url


@pytest.fixture
def texts(url: str) -> Any:
    return sys.modules["texts"]


def visitor(browser: Any, address: str, locale: str, width: int = 1400) -> Visit:
    context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale)
    context.set_default_timeout(WAITING)
    visit = Visit(context.new_page())
    visit.page.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.goto(address)
    visit.page.locator("#emotion").wait_for()
    return visit


def say(visit: Visit, sentence: str) -> None:
    box = visit.page.locator("#prompt").locator("textarea, input")
    box.fill(sentence)
    box.press("Enter")


def test_both_tables_say_everything(texts: Any) -> None:
    places = lambda text: sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name)
    assert list(texts.LANGUAGES) == list(texts.NAMES) and set(texts.ENGLISH) == set(texts.JAPANESE)
    for key, english in texts.ENGLISH.items():
        japanese = texts.JAPANESE[key]
        assert places(japanese) == places(english), key
        assert japanese.strip(" ") and re.findall(r"`[^`]+`", japanese) == re.findall(r"`[^`]+`", english), key
        written = re.search(f"[{JAPANESE}]", japanese)
        assert written or not re.search(r"[A-Za-z]{3}", re.sub(r"{[^}]*}", "", english)) or key == "look.then", key


def test_the_code_asks_for_texts_that_there_are(texts: Any) -> None:
    code = "\n".join(file.read_text("utf-8") for file in Path(texts.__file__).parent.glob("*.py"))
    asked = re.findall(r"""\b(?:say|mark)\(f?(["'])(.+?)\1""", code)
    assert len(asked) > 80
    for _, key in asked:
        pattern = re.sub(r"\\{.*?\\}", ".+", re.escape(key))
        assert any(re.fullmatch(pattern, known) for known in texts.ENGLISH), key


@pytest.mark.parametrize(
    ("browser_asks", "address", "wanted"),
    [
        ("ja,en;q=0.8", "", "ja"), ("de-DE,de;q=0.9,ja;q=0.8,en;q=0.7", "", "ja"), ("en-GB", "", "en"), ("", "", "en"),
        ("fr", "", "en"), ("ja", "en", "en"), ("en", "ja-JP", "ja"), ("ja", "xx", "ja"),
    ],
)  # fmt: skip
def test_who_is_spoken_to_how(texts: Any, browser_asks: str, address: str, wanted: str) -> None:
    assert texts.wanted_language({"accept-language": browser_asks}, {"lang": address}) == wanted


def test_marks_become_texts_in_every_language(texts: Any) -> None:
    with texts.marking():
        marks = texts.say("drop", what=texts.say("photo")), texts.say("faces.one", number=2, what="\"<b>'"), "plain"
    names = [json.loads(mark.removeprefix("__i18n__"))["key"] for mark in marks[:2]]
    assert [texts.translations()["ja"][name] for name in names] == [
        "# 写真\nここにドロップ、またはクリックして選択",
        "顔2：\"<b>'",
    ]
    assert texts.translations()["en"][names[1]] == "Face 2: \"<b>'"
    assert texts.translations()["ja"]["common.complete"] == "完了"  # which gradio's page has in English only
    assert texts.say("photo") == "Photo"  # outside of what is built for everybody


def test_units_have_names(texts: Any) -> None:
    import looks

    names = [looks.say_unit(unit) for unit in ("AU6", "R6", "L12", "mouthRollUpper", "R99")]
    right, left = "Cheeks up (right side)", "Left lip corner up"
    assert names == ["Cheeks up", right, left, "mouthRollUpper", "R99"]


def test_what_the_package_says_often_is_translated(texts: Any) -> None:
    for sentence in (MOUTH_KEPT, MOUTH_NOT_LENT, EYES_KEPT, NO_FACE, UNREADABLE):
        said = texts.say_of_package(f"Face 2: {sentence}")
        assert said == f"Face 2: {sentence}"
        japanese = re.search('<span class="said" lang="ja">顔2：(.+?)</span>', texts.in_all(said))
        assert japanese and re.search(f"[{JAPANESE}]", japanese[1]) and not re.search("Face|The |Eyes", japanese[1])
    assert "<b>.png" not in texts.in_all(texts.say_of_package(UNREADABLE))
    frames = texts.in_all(texts.say("job.frame", done=2, total=9), texts.say("job.rate", rate=4))
    assert frames == (
        '<span class="said" lang="en">Frame 2 of 9 · 4.0 frames a second</span>'
        '<span class="said" lang="ja">9フレーム中2フレーム・毎秒4.0フレーム</span>'
    )
    assert texts.say_of_package("It is none.") == "It is none." == texts.in_all("It is none.")


def test_a_sentence_sets_the_controls_in_japanese(browser: Any, url: str) -> None:
    visit = visitor(browser, url, "ja")
    page = visit.page
    assert page.locator("html").get_attribute("lang") == "ja"
    assert page.locator("#emotion label").all_inner_texts() == [
        "真顔", "笑顔", "悲しみ", "驚き", "恐れ", "嫌悪", "怒り", "軽蔑"
    ]  # fmt: skip
    say(visit, "笑って")
    visit.says("写真を選ぶと反映されます。")
    title = "() => getComputedStyle(document.querySelector('.toast-title'), '::before').content"
    assert page.evaluate(title) == '"お知らせ"'
    give(visit, HOPPER)
    wait_told(visit, "笑顔 85 %")
    looks = page.locator("#looks img")
    assert looks.count() == 2  # the photo, and once what was asked before there was one
    own = slider_values(visit)
    say(visit, "少し照れたように笑って、目を大きく、ピカソ風に")
    visit.says("わからなかった言葉：ピカソ")
    told = "笑顔 42 %, 眉の内側を上げる +0.14, 目を見開く +0.90, 唇を結ぶ +0.11, 視線 +6° -6°"
    shy = wait_told(visit, told)
    assert looks.count() == 3
    assert page.locator("#emotion input:checked").get_attribute("value") == "happy"
    assert page.locator("#strength input[type=number]").input_value() == "0.42"
    moved = [round(now - before, 2) for now, before in zip(slider_values(visit), own)]
    assert [i for i, by in enumerate(moved) if by] == [0, 3, 14]  # AU1, AU5 and AU24
    page.locator("#gaze button").first.click()
    gaze = page.locator("#gaze input[type=number]")
    gaze.first.wait_for(timeout=WAITING)
    assert [gaze.nth(i).input_value() for i in (0, 1)] == ["6", "-6"]
    page.keyboard.press("Escape")
    page.locator("#emotion").get_by_text("怒り").click()  # a change of one control leaves the others
    angry = wait_told(visit, told.replace("笑顔", "怒り"))
    assert (angry != shy).any()
    page.locator("#undo").click()
    assert (wait_told(visit, told) == shy).all()
    kept = slider_values(visit)
    page.evaluate("window.stayed = true")
    english = "Happy 42 %, Inner brows up +0.14, Eyes wide +0.90, Lips pressed +0.11, Eyes +6° -6°"
    for language, words in (("English", english), ("日本語", told)):
        page.locator("nav").get_by_text(language).click()
        assert (wait_told(visit, words) == shy).all()  # the photo, the edit and the controls stay
        assert slider_values(visit) == kept and page.evaluate("window.stayed")
        assert not page.locator("[data-testid=toast-body]").count()  # what was said in the other language
        written = re.findall(f"[{JAPANESE}]", page.locator(".tabs").first.inner_text())
        assert bool(written) == (language == "日本語")
    alts = page.locator("#result img").evaluate_all("all => all.map((one) => one.alt)")
    assert alts == ["元の写真", told] and page.locator("html").get_attribute("lang") == "ja"
    say(visit, "hapy")
    visit.says("did you mean 'happy'")
    page.locator("nav").get_by_text("English").click()
    page.locator("#emotion").get_by_text("Happy").wait_for(timeout=WAITING)
    say(visit, "xyzzy smile")
    visit.says("Not understood: xyzzy.")  # as the page says now, not the browser
    assert not [text for text in visit.errors if "WebGPU" not in text]
    page.context.close()


def test_light_and_gaze_have_sliders(browser: Any, url: str) -> None:
    visit = visitor(browser, f"{url}?lang=en", "ja")
    give(visit, HOPPER)
    move = """(slider, value) => {
      slider.value = value;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      slider.dispatchEvent(new Event("pointerup", { bubbles: true }));
    }"""
    for part, value, told in (
        ("light", 60, "Light +60° +0°"),
        ("gaze", -20, "Eyes -20° +0°, Light +60° +0°"),
    ):
        visit.page.locator(f"#{part} button").first.click()
        visit.page.locator(f"#{part} input[type=range]").first.evaluate(move, value)
        wait_told(visit, told)
    looks = visit.page.locator("#looks img")
    before, count = visit.page.locator("#result img").nth(1).get_attribute("src"), looks.count()
    visit.page.locator("#light input[type=range]").first.evaluate(move.replace("pointerup", "pointermove"), -60)
    another = "(before) => document.querySelectorAll('#result img')[1].src !== before"
    visit.page.wait_for_function(another, arg=before, timeout=WAITING)
    assert looks.count() == count  # while it is dragged, and nothing is kept
    wait_told(visit, "Eyes -20° +0°, Light +60° +0°")
    visit.page.locator("#gaze input[type=checkbox]").check()
    wait_told(visit, "Eyes to the camera, Light -60° +0°")
    visit.page.locator("#to-photo").click()
    wait_told(visit, "The photo")
    assert visit.page.locator("#light input[type=range]").first.input_value() == "0"
    visit.page.context.close()


@pytest.mark.parametrize("locale", ["ja", "en"])
def test_nothing_is_cut_off_or_on_top(browser: Any, url: str, texts: Any, locale: str) -> None:
    """In every tab, in a wide window and on a phone."""
    visit = visitor(browser, url, locale, 1400)
    for part in ("units", "sides", "pose", "gaze", "light", "sampling", "presets"):
        visit.page.locator(f"#{part} button").first.click()
    for tab, least in {"photo": 60, "batch": 15, "clip": 12, "compare": 10, "scan": 6}.items():
        name = texts.LANGUAGES[locale][f"{tab}.tab"]
        visit.page.get_by_role("tab", name=name, exact=True).click()
        visit.page.get_by_role("tab", name=name, exact=True, selected=True).wait_for()
        for width in (360, 1400):
            visit.page.set_viewport_size({"width": width, "height": 900})
            visit.page.wait_for_function(f"() => !({OVERLAPS})()[1].length", timeout=WAITING)  # tabs go into a menu
            count, cut, over = visit.page.evaluate(OVERLAPS)
            assert count > least and not cut and not over, (tab, width)
            count, bad = visit.page.evaluate(CONTRAST)
            assert count > least and not bad, (tab, width)
            assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= width
    visit.page.context.close()
