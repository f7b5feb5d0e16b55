"""The demo as its visitors use it: a real browser, a real server, the bundled pipeline."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from processes import free_port
from small_diffae import small_diffae

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.pipelines.base import FacePipeline

REPOSITORY = Path(__file__).parents[2]
STARTING = 240  # seconds a server may take to start on a busy machine
WAITING = 180_000  # milliseconds an edit, a page or a click may take on a busy machine
NO_FACE = "No face was found: use a photo in which a face is clearly visible."

pytest.importorskip("gradio")
ASTRONAUT = skimage.data.astronaut()
FACE_BOX = np.s_[30:230, 130:320]  # rows, columns of the astronaut's head with room to spare


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photos to upload: one with a face and see-through corners, one without a face, and no photo at all."""
    folder = tmp_path_factory.mktemp("photos")
    alpha = np.full(ASTRONAUT.shape[:2], 255, np.uint8)
    alpha[:20, :20] = 7
    pictures = {"astronaut": np.dstack([ASTRONAUT, alpha]), "coffee": skimage.data.coffee()}
    paths = {name: folder / f"{name}.png" for name in (*pictures, "letter")}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(paths[name])
    paths["letter"].write_text("Dear all, this is not a picture.")
    return paths


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `python space/app.py`."""
    with serve(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def coded_url(pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the demo of a small Diffusion Autoencoder, in this process."""
    coded = small_diffae()
    coded.register_modules(shape_encoder=EmocaEncoder.from_pretrained(resolve("encoder-open")))
    with pytest.MonkeyPatch.context() as patch, demo_of(coded, tmp_path_factory.mktemp("coded"), name="coded") as url:
        import editor

        patch.setattr(editor, "open_default", lambda: pipe)
        yield url


@contextmanager
def demo_of(pipe: FacePipeline, folder: Path, **options: Any) -> Iterator[str]:
    """Address of the demo of a pipeline, in this process, with its files in a folder; options as `app.build_demo`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.syspath_prepend(str(REPOSITORY / "space"))
        import app

        demo = app.build_demo(pipe, **options)
        yield app.launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        demo.close()


@contextmanager
def serve(folder: Path, *options: str | Path) -> Iterator[str]:
    """Run the demo with its files in a folder."""
    port = free_port()
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "GRADIO_TEMP_DIR": str(folder / "files")}
    command = [sys.executable, str(REPOSITORY / "space" / "app.py"), "--port", str(port), *map(str, options)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield wait_for(f"http://127.0.0.1:{port}/", server, folder / "log")
        finally:
            server.terminate()
            server.wait(STARTING)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> str:
    """`address` as soon as it answers."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return address
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"The demo did not start: {log.read_text()[-2000:]}")


@dataclass
class Visit:
    """A page in the browser, the errors on its console, and the hosts it asked."""

    page: Any
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#photo input[type=file]", str(path))

    def click(self, name: str) -> None:
        self.page.get_by_text(name, exact=True).first.click()

    def says(self, sentence: str) -> None:
        self.page.get_by_text(sentence).first.wait_for(timeout=WAITING)

    def result(self) -> Image.Image:
        """The right picture of the before/after slider, as soon as it is there."""
        after = self.page.locator("#result img").nth(1)
        after.wait_for(timeout=WAITING)
        return Image.open(io.BytesIO(self.fetch(after.get_attribute("src"))))

    def wait_for_another(self, before: np.ndarray) -> None:
        """Wait until the result's colours are not those of an earlier one; an edit may be done twice on the way."""
        end = time.monotonic() + WAITING / 1000
        while np.array_equal(np.asarray(self.result())[..., :3], before):
            assert time.monotonic() < end, "the result did not change"
            self.page.wait_for_timeout(200)

    def fetch(self, address: str) -> bytes:
        answer = self.page.request.get(address)
        assert answer.ok
        return answer.body()


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Visit]:
    """The demo, freshly opened."""
    with opened(browser, url) as visit:
        yield visit


@contextmanager
def opened(browser: Any, url: str) -> Iterator[Visit]:
    """A demo, freshly opened; afterwards: no error on the console, nothing asked of another host."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(WAITING)
    visit = Visit(context.new_page())
    visit.page.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("request", lambda request: visit.hosts.add(host(request.url)))
    visit.page.goto(url)
    visit.page.locator("#emotion").wait_for()
    yield visit
    context.close()
    # Babylon first tries WebGPU, which a headless browser without a GPU lacks
    assert [text for text in visit.errors if "WebGPU" not in text] == []
    assert visit.hosts == {"127.0.0.1"}


def host(address: str) -> str:
    """Host of a request; what a page asks of itself (data:, blob:) counts as the page's own."""
    parts = urllib.parse.urlsplit(address.removeprefix("blob:"))
    return "127.0.0.1" if parts.scheme == "data" else str(parts.hostname)


def test_api_edits_and_explains(url: str, photos: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    photo = handle_file(photos["astronaut"])
    path = client.predict(photo=photo, emotion="surprise", action_units="AU12=-0.2", yaw=4, api_name="/edit")
    edited = np.asarray(Image.open(path))
    assert path.endswith(".png")
    assert edited.shape == (512, 512, 4)
    assert (edited[:20, :20, 3] == 7).all()
    assert (edited[FACE_BOX][..., :3] != ASTRONAUT[FACE_BOX]).any()
    for wrong, sentence in (
        ({"photo": handle_file(photos["coffee"])}, NO_FACE),
        ({"photo": handle_file(photos["letter"])}, "'letter.png' is not a readable picture"),
        ({"photo": photo, "face": "3"}, "There is no face 3: the photo shows 1 face"),
        ({"photo": photo, "action_units": "smile"}, "action_units: give NAME=NUMBER"),
    ):
        with pytest.raises(Exception, match=sentence):
            client.predict(**wrong, api_name="/edit")
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    required = lambda of: [p["parameter_name"] for p in of["parameters"] if not p["parameter_has_default"]]
    assert {name: required(of) for name, of in endpoints.items()} == {
        "/edit": ["photo"],
        "/emotions": ["photo"],
        "/faces": ["photo"],
        "/shown": ["photo"],
        "/head": ["photo"],
        "/buffers": ["photo"],
        "/batch": ["photos"],
        "/compare": ["source", "target"],
        "/video": ["clip"],
        "/drive": ["photo", "clip"],
        "/animate": ["photo"],
    }
    assert endpoints["/edit"]["description"].startswith("Change the emotion of a face in a photo and keep the person")


def ask(url: str, event: int, data: list) -> dict[str, Any]:
    """What the server answers to an event of the page, asked without the page."""
    session = f"raw{event}"
    body = json.dumps({"data": data, "fn_index": event, "session_hash": session}).encode()
    request = urllib.request.Request(f"{url}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=WAITING / 1000).close()
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=WAITING / 1000) as lines:
        messages = (json.loads(line[5:]) for line in lines if line.startswith(b"data:"))
        return next(m for m in messages if m["msg"] in ("process_completed", "unexpected_error"))


@pytest.mark.parametrize("kind", ["path", "link", "file"])
def test_files_of_the_server_are_refused(kind: str, url: str, tmp_path: Path) -> None:
    """Whatever event they are given to, with or without saying that they are files."""
    secret = tmp_path / "secret.png"
    Image.fromarray(ASTRONAUT).save(secret)
    value: dict[str, Any] = {"path": str(secret)}
    if kind == "file":
        value["meta"] = {"_type": "gradio.FileData"}
    elif kind == "link":
        value["path"] = f"{tmp_path}/nowhere/../secret.png"
    with urllib.request.urlopen(f"{url}config") as answer:
        config = json.load(answer)
    parts, asked = {part["id"]: part for part in config["components"]}, 0
    files = ("image", "model3d", "gallery", "imageslider", "downloadbutton", "file", "uploadbutton", "video")
    for event in config["dependencies"]:
        inputs = [parts[i] for i in event["inputs"]]
        for place in (i for i, part in enumerate(inputs) if part["type"] in files and event["backend_fn"]):
            data = [part["props"].get("value") for part in inputs]
            data[place] = value
            message = ask(url, event["id"], data)
            assert not message["success"] and "secret" not in str(message.get("output", {}).get("data")), event
            if kind != "file" and parts[event["inputs"][place]]["type"] == "image":
                assert "no photo that you uploaded" in message["output"]["error"]
            asked += 1
    assert asked >= 15  # photo and reference of every way to an edit or an animation, presets, and clips


def test_a_click_on_an_emotion_changes_the_face(visit: Visit, photos: dict[str, Path]) -> None:
    visit.upload(photos["astronaut"])
    visit.click("Happy")
    edited = visit.result()
    assert edited.size == (512, 512)
    assert edited.mode == "RGBA"
    pixels = np.asarray(edited)[..., :3]
    assert (pixels[FACE_BOX] != ASTRONAUT[FACE_BOX]).any(-1).mean() > 0.05
    assert (pixels[300:] == ASTRONAUT[300:]).all()  # nothing but the face was touched or recompressed
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.page.locator("#download").click()
    assert download.value.suggested_filename == "astronaut_edited.png"
    saved = np.asarray(Image.open(download.value.path()))
    assert (saved == np.asarray(edited)).all()


def test_head_and_buffers_are_shown(visit: Visit, photos: dict[str, Path]) -> None:
    import trimesh

    visit.upload(photos["astronaut"])
    visit.click("Surprise")
    visit.result()
    visit.page.get_by_role("tab", name="Buffers").click()
    for caption in ("result", "normal", "albedo", "rendered", "repainted"):
        visit.says(caption)
    visit.page.get_by_role("tab", name="3-D head").click()
    visit.page.locator("#heads canvas").wait_for(timeout=WAITING)
    link = visit.page.get_by_test_id("model3d-download-link").get_attribute("href")
    head = trimesh.load(io.BytesIO(visit.fetch(link)), file_type="glb").to_geometry()
    height, depth = np.ptp(head.vertices, axis=0)[1:]
    assert 0.18 < height < 0.35
    assert 0.1 < depth < 0.35
    texture = np.asarray(head.visual.material.baseColorTexture.convert("RGB"), np.float64)
    assert texture[..., 0].std() > 10  # a photo, not one colour
    assert (texture[..., 0] > texture[..., 2] + 20).mean() > 0.5  # of skin


def test_missing_and_useless_photos_are_explained(visit: Visit, photos: dict[str, Path]) -> None:
    visit.click("Change the expression")
    visit.says("Upload a photo first.")
    visit.upload(photos["coffee"])
    visit.says(NO_FACE)
    visit.click("Sad")
    visit.upload(photos["letter"])
    visit.says("The photo 'letter.png' is not a readable picture: use JPEG, PNG, WebP or HEIC.")
    visit.upload(photos["astronaut"])
    assert visit.result().size == (512, 512)


def test_photos_that_browsers_do_not_show_are_shown(visit: Visit, tmp_path: Path) -> None:
    Image.fromarray(ASTRONAUT).save(tmp_path / "scan.tif")
    visit.upload(tmp_path / "scan.tif")
    visit.page.wait_for_function("() => document.querySelector('#photo img')?.naturalWidth === 512", timeout=WAITING)
    visit.click("Sad")
    assert (np.asarray(visit.result())[300:] == ASTRONAUT[300:]).all()


def test_a_face_is_chosen_by_a_click_on_it(visit: Visit) -> None:
    visit.page.locator("#photo-part .gallery-item").nth(2).click()
    preview = visit.page.locator("#faces img")
    preview.wait_for(timeout=WAITING)
    visit.click("Anger")
    right = np.asarray(visit.result())
    first = visit.page.locator("#result img").nth(1).get_attribute("src")
    frame = preview.bounding_box()
    preview.click(position={"x": 0.2 * frame["width"], "y": 0.25 * frame["height"]})
    visit.page.get_by_role("radio", name="1", exact=True).and_(visit.page.locator(":checked")).wait_for()
    visit.click("Sad")
    visit.page.wait_for_function("a => document.querySelectorAll('#result img')[1].src !== a", arg=first)
    both = np.asarray(visit.result())
    changed = np.abs(both.astype(int) - right).max(-1)
    assert changed[:, :400].max() > 40  # the largest face is the right one: its edit stays, the left one's came
    assert changed[:, 400:].mean() < 0.5


def test_a_diffusion_autoencoder_has_its_own_controls(browser: Any, coded_url: str, photos: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    with opened(browser, coded_url) as visit:
        visit.upload(photos["astronaut"])
        visit.click("Happy")
        edited = np.asarray(visit.result())[..., :3]
        assert (edited[FACE_BOX] != ASTRONAUT[FACE_BOX]).any()
        for name in ("#units", "#pose"):
            assert not visit.page.locator(name).is_visible()
        assert visit.page.locator("#shape").is_visible()
        visit.click("Attributes")
        visit.page.locator("#which input").click()
        visit.page.get_by_role("option", name="Young").click()
        visit.wait_for_another(edited)
        visit.page.get_by_role("tab", name="Buffers").click()
        for caption in ("result", "photo", "reconstructed", "edited", "replaced"):
            visit.page.locator("#stage-part").get_by_text(caption, exact=True).first.wait_for(timeout=WAITING)
        visit.page.get_by_role("tab", name="3-D head").click()
        visit.page.locator("#heads canvas").wait_for(timeout=WAITING)
        assert visit.fetch(visit.page.get_by_test_id("model3d-download-link").get_attribute("href"))[:4] == b"glTF"
    client = Client(coded_url, verbose=False)
    for asked in ({"action_units": "AU12=0.5"}, {"yaw": 5}):
        with pytest.raises(Exception, match="has no head, so no (action_units|rotate)"):
            client.predict(photo=handle_file(photos["astronaut"]), **asked, api_name="/edit")
    assert "/shown" not in client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    photo = handle_file(photos["astronaut"])
    _, found = client.predict(photo=photo, api_name="/faces")
    assert [face["number"] for face in found] == [1]
    _, table = client.predict(source=photo, target=photo, api_name="/compare")
    assert (
        "S: landmark  T: landmark" in table and "coded, landmark" in table
    )  # beside the open default, which has a head
