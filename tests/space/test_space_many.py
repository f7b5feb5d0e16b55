"""Many photos at once, pipelines beside each other, and agents: a real browser, a real MCP client, a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_space import ASTRONAUT, FACE_BOX, NO_FACE, REPOSITORY, WAITING, demo_of, opened, photos
from two_encoders import rig

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.evaluation.compare import OtherPipeline
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EmocaEncoder

pytest.importorskip("gradio")
__all__ = ["photos"]  # a fixture
ADDRESS = "The file at this address could not be fetched"


@pytest.fixture(scope="module")
def space() -> Iterator[ModuleType]:
    """The demo's modules can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "space"))
        import app

        yield app


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server keeps the files of visitors."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("many")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def url(space: ModuleType, files: Path, pipe: EmoRigPipeline) -> Iterator[str]:
    """Address of the demo of the bundled pipeline, beside a rig with DECA and EMOCA, in this process."""
    lab = rig(pipe, EmocaEncoder.from_pretrained(resolve("encoder-open")))
    with demo_of(pipe, files, others={"lab": OtherPipeline(lab)}) as url:
        yield url


@pytest.fixture
def editor(space: ModuleType, files: Path, pipe: EmoRigPipeline) -> Any:
    import editor

    return editor.Editor(pipe)


@pytest.fixture
def given(photos: dict[str, Path], files: Path) -> Callable[..., list[Any]]:
    """Photos by name as uploads with names of a visitor's."""
    from parts import Given

    def give(**names: str) -> list[Any]:
        return [Given(str(photos[kind]), name) for kind, name in names.items()]

    return give


# many photos


def test_names_are_kept_and_told_apart(space: ModuleType) -> None:
    from batch import told_apart

    names = ["a.jpg", "A.JPG", "a (2).jpg", "a.jpg", "b.png"]
    assert told_apart(names) == ["a.jpg", "A (3).JPG", "a (2).jpg", "a (4).jpg", "b.png"]


def test_an_upload_keeps_its_name_and_no_way_out(space: ModuleType, files: Path) -> None:
    import parts
    from gradio.data_classes import FileData

    path = files / "x" / "safe.jpg"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    name = lambda called: parts._path_and_name(FileData(path=str(path), orig_name=called))[1]
    assert name("写真 (1).jpg") == "写真 (1).jpg"
    assert name("../../etc/me.jpg") == name("C:\\me\\me.jpg") == "me.jpg"
    assert name("../") == name("..\0") == name(None) == "safe.jpg"
    with pytest.raises(Exception, match="no photo that you uploaded"):
        parts._path_and_name(FileData(path="/etc/hostname", orig_name="me.jpg"))


def test_too_much_is_refused(
    editor: Any, given: Callable[..., list[Any]], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import batch

    asked, before = {"emotion": "sad"}, set(files.iterdir())
    run = lambda photos: list(batch.edit_batch(editor, photos, "largest", 0, asked))
    for limit, least, sentence in (
        ("MAX_PHOTOS", 1, "2 photos, and 1 are the most"),
        ("MAX_BYTES", 9, "more than 0 MB"),
    ):
        with monkeypatch.context() as patch, pytest.raises(Exception, match=sentence):
            patch.setattr(batch, limit, least)
            run(given(astronaut="a.png", coffee="b.png"))
    with pytest.raises(Exception, match="Upload photos first"):
        run([])
    assert set(files.iterdir()) == before
    monkeypatch.setattr(batch, "MAX_PIXELS", 200_000)
    *_, last = run(given(astronaut="a.png", letter="letter.txt"))
    assert last.finished and last.result is None
    assert [row.says[0].split(",")[0] for row in last.rows] == [
        "The photo has 0 megapixels",
        "This is no photo by its name (.jpg",
    ]


def test_a_batch_takes_a_preset_or_words_or_an_emotion(editor: Any) -> None:
    from batch_tab import BatchTab, preset_choices

    kept = [{"name": "Blue", "edits": [{"emotion": "sad"}]}, {"name": "Odd", "edits": [{"emotion": "joy"}]}, "broken"]
    loaded = {"name": "Blue", "edits": [{"emotion": "fear"}]}
    assert preset_choices([*kept, loaded]) == [("–", ""), ("Blue", "Blue"), ("Odd", "Odd")]
    asked = lambda *wanted: {k: v for k, v in BatchTab(editor).asked("happy", 0.5, *wanted).items() if v is not None}
    assert asked("", "", None, None) == {"emotion": "happy", "intensity": 0.5}
    assert asked("左から光", "", kept, None) == {"prompt": "左から光", "intensity": 0.5}
    assert asked("left", "Blue", kept, None) == {"edits": [{"emotion": "sad"}]}
    assert asked("", "Blue", kept, loaded) == {"edits": [{"emotion": "fear"}]}
    for wanted, sentence in (("", "Odd"), "Unknown emotion 'joy'"), (("xyzzy", ""), "Nothing of 'xyzzy'"):
        with pytest.raises(Exception, match=sentence):
            asked(*wanted, kept, None)
    with pytest.warns(UserWarning, match="Not understood: xyzzy"):
        assert asked("xyzzy smile", "", None, None)["prompt"] == "xyzzy smile"


def test_who_waits_is_known(space: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import jobs

    for queue in [], ["a job"]:
        monkeypatch.setattr(jobs.LocalContext, "blocks", SimpleNamespace(get=lambda q=queue: SimpleNamespace(_queue=q)))
        assert jobs.others_wait() == bool(queue)


def test_nothing_is_left_where_nobody_waits(editor: Any, given: Callable[..., list[Any]], files: Path) -> None:
    from batch import edit_batch

    before = set(files.iterdir())
    job = edit_batch(editor, given(astronaut="a.png", coffee="b.png"), "largest", 0, {"emotion": "sad"})
    assert [next(job).done, next(job).done] == [0, 1]
    assert set(files.iterdir()) != before
    job.close()
    assert set(files.iterdir()) == before


def test_many_photos_become_a_table_and_a_zip(browser: Any, url: str, photos: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "astronaut.png"
    again.write_bytes(photos["astronaut"].read_bytes())
    letter = tmp_path / "letter.png"
    letter.write_text("no picture")
    with opened(browser, url) as visit:
        page = visit.page
        page.get_by_role("tab", name="Many photos").click()
        page.locator("#run-batch").click()
        visit.says("Upload photos first.")
        page.set_input_files(
            "#batch-photos input", [str(p) for p in (photos["astronaut"], again, photos["coffee"], letter)]
        )
        page.locator("#batch-photos .file").nth(3).wait_for()
        preset = {"name": "astonished.json", "mimeType": "application/json",
                  "buffer": b'{"name": "Astonished", "edits": [{"emotion": "surprise"}]}'}  # fmt: skip
        page.set_input_files("#batch-presets input[type=file]", preset)
        chosen = "() => document.querySelector('#batch-preset input')?.value === 'Astonished'"
        page.wait_for_function(chosen, timeout=WAITING)
        page.locator("#run-batch").click()
        visit.says("2 of 4 photos edited, 2 failed.")
        rows = [row.inner_text().split("\n") for row in page.locator("#batch-table tbody tr").all()]
        assert [" ".join(row).strip() for row in rows] == [
            "astronaut.png",
            "astronaut.png Called astronaut (2).png in the zip.",
            f"coffee.png Not edited: {NO_FACE}",
            "letter.png Not edited: The photo 'letter.png' is not a readable picture: use JPEG, PNG, WebP or HEIC.",
        ]
        assert page.locator("#batch-table img").count() == 4
        assert page.locator("#batch-table img").evaluate_all(
            "all => all.every(one => one.naturalWidth > 100 && one.alt)"
        )
        with page.expect_download(timeout=WAITING) as download:
            page.locator("#download-batch").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["astronaut.png", "astronaut (2).png"]
            one, two = (np.asarray(Image.open(archive.open(name))) for name in archive.namelist())
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("nav").get_by_text("日本語").click()  # what was said already, and a button that was away, follow
        page.locator("#run-batch").get_by_text("すべての写真を変える").wait_for(timeout=WAITING)
        assert page.locator("#batch-stage-part .progress.prose").inner_text() == "4枚中2枚を編集しました（失敗2枚）。"
        assert [" ".join(row.inner_text().split()) for row in page.locator("#batch-table tr").all()] == [
            "編集前 編集後 写真",
            "astronaut.png",
            "astronaut.png ZIPの中での名前：astronaut (2).png",
            "coffee.png 編集できませんでした： 顔が見つかりませんでした。顔がはっきり写った写真を選んでください。",
            "letter.png 編集できませんでした： 「letter.png」は画像として読み込めません。"
            "JPEG、PNG、WebP、HEICのいずれかを選んでください。",
        ]
    assert one.shape == (512, 512, 4) and (one == two).all()
    assert (one[FACE_BOX][..., :3] != ASTRONAUT[FACE_BOX]).any(-1).mean() > 0.05


def test_what_is_done_when_stopped_can_be_downloaded(browser: Any, url: str, photos: dict[str, Path]) -> None:
    data = photos["astronaut"].read_bytes()
    many = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": data + bytes(n)} for n in range(12)]
    with opened(browser, url) as visit:
        page = visit.page
        page.get_by_role("tab", name="Many photos").click()
        page.set_input_files("#batch-photos input", many)
        page.locator("#batch-photos .file").nth(11).wait_for(state="attached")
        page.locator("#batch-emotion").get_by_text("Sad", exact=True).click()
        page.locator("#run-batch").click()
        page.locator("#batch-table tbody tr").first.wait_for(timeout=WAITING)
        page.locator("#batch-mood-part").get_by_text("Stop", exact=True).click()
        visit.says("Stopped: ")
        done = page.locator("#batch-table tbody tr").count()
        with page.expect_download(timeout=WAITING) as download:
            page.locator("#download-batch").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert 0 < len(archive.namelist()) == done < 12


# pipelines beside each other


def test_pipelines_are_compared_on_a_sheet(browser: Any, url: str, photos: dict[str, Path]) -> None:
    with opened(browser, url) as visit:
        page = visit.page
        page.get_by_role("tab", name="Compare").click()
        page.locator("#run-compare").click()
        visit.says("Give a source and a target photo first.")
        for role in ("source", "target"):
            page.set_input_files(f"#compare-{role} input[type=file]", str(photos["astronaut"]))
            page.locator(f"#compare-{role} img").wait_for(timeout=WAITING)
        visit.says("Loaded: emorig-open, lab.")
        page.locator("#run-compare").click()
        page.locator("#sheet img").wait_for(timeout=WAITING)
        table = page.locator("#distances").inner_text()
        for row in (
            "S: DECA  T: DECA",
            "S: DECA  T: EMOCA",
            "S: EMOCA  T: DECA",
            "S: EMOCA  T: EMOCA",
            "emorig-open, ",
        ):
            assert row in table
        with page.expect_download(timeout=WAITING) as download:
            page.locator("#download-sheet").click()
        assert download.value.suggested_filename == "comparison.png"
        sheet = Image.open(download.value.path())
        assert sheet.width > 5 * 128  # four pairs, and the other pipeline
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_pipeline_is_given_once(space: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["app.py", "--with", "emorig-open"])
    with pytest.raises(SystemExit, match="'emorig-open' is given twice"):
        space.main()


# agents


def with_tools(url: str, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """What is done with the server's tools, over streamable HTTP."""
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    async def connect() -> Any:
        address = f"{url}gradio_api/mcp/"
        async with streamablehttp_client(address) as (read, write, _), mcp.ClientSession(read, write) as session:
            await session.initialize()
            return await use(session)

    with ThreadPoolExecutor(1) as beside:  # the browser has this thread's loop
        return beside.submit(asyncio.run, connect()).result()


def upload(url: str, photo: Path) -> str:
    """The address of a file on the server, as an agent gets it that uploads one."""
    edge = "edge"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{photo.name}"\r\n\r\n'
    body = head.encode() + photo.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind)) as answer:
        return f"{url}gradio_api/file={json.load(answer)[0]}"


def test_every_tool_and_parameter_is_described(url: str) -> None:
    tools = {tool.name: tool for tool in with_tools(url, lambda session: session.list_tools()).tools}
    assert set(tools) == {
        "edit", "emotions", "faces", "shown", "head", "buffers", "batch", "compare", "video", "drive", "animate",
    }  # fmt: skip
    for tool in tools.values():
        assert " Returns: " in tool.description and len(tool.description.split(".")[0]) > 25
        for name, schema in tool.inputSchema["properties"].items():
            assert len(schema["description"]) > 10 and schema["type"], f"{tool.name}: {name}"
    schema = tools["edit"].inputSchema
    assert schema["required"] == ["photo"]
    assert "contempt" in schema["properties"]["emotion"]["enum"]
    assert tools["batch"].inputSchema["properties"]["photos"]["items"]["type"] == "string"


def test_a_tool_edits_a_photo(url: str, photos: dict[str, Path]) -> None:
    """Of an uploaded file, and of one in the call; the result comes as a picture and as an address."""
    inside = "data:image/png;base64," + base64.b64encode(photos["astronaut"].read_bytes()).decode()
    for photo, light in (upload(url, photos["astronaut"]), 20), (inside, 0):
        asked = {"photo": photo, "emotion": "surprise", "light_yaw": light, "seed": 3}
        answer = with_tools(url, lambda session, asked=asked: session.call_tool("edit", asked))
        assert not answer.isError
        picture, address = answer.content
        edited = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.data))))
        assert edited.shape == (512, 512, 4) and picture.mimeType == "image/png"
        assert (edited[FACE_BOX][..., :3] != ASTRONAUT[FACE_BOX]).any(-1).mean() > 0.05
        assert (edited[300:, :, :3] == ASTRONAUT[300:]).all()
        with urllib.request.urlopen(address.text.removeprefix("Image URL: ")) as served:
            assert (np.asarray(Image.open(io.BytesIO(served.read()))) == edited).all()


def test_tools_say_what_is_wrong_in_one_sentence(url: str, photos: dict[str, Path]) -> None:
    photo, coffee = (upload(url, photos[name]) for name in ("astronaut", "coffee"))
    wrong = [
        ("edit", {"photo": coffee}, NO_FACE),
        ("edit", {"photo": photo, "face": "3"}, "There is no face 3: the photo shows 1 face"),
        ("edit", {"photo": photo, "emotion": "joy"}, "'joy' is not one of"),
        ("edit", {"photo": photo, "action_units": "smile"}, "action_units: give NAME=NUMBER"),
        ("edit", {"photo": photo, "gaze": "up"}, "gaze: give two angles, such as 15, -5, or camera"),
        ("edit", {"photo": photo, "light_strength": 9}, "light_strength must be a number from 0 to 2"),
        ("edit", {"photo": photo, "prompt": "xyzzy"}, "xyzzy"),
        ("edit", {"photo": photo, "edits": "[{"}, "edits: give a JSON list such as"),
        ("edit", {"photo": photo, "edits": '[{"emotion": "joy"}]'}, "'joy'"),
        ("edit", {"photo": f"{url}no.png"}, ADDRESS),
        ("edit", {"photo": f"{url}gradio_api/file=/etc/hostname"}, ADDRESS),
        ("batch", {"photos": ["/etc/hostname"]}, ADDRESS),
        ("batch", {"photos": []}, "Upload photos first"),
        ("compare", {"source": photo, "target": photo, "modes": "soul"}, "modes must be some of exp"),
        ("head", {"photo": coffee}, NO_FACE),
        ("emotions", {"photo": photo, "face": "9"}, "There is no face 9"),
    ]  # fmt: skip

    async def ask(session: Any) -> list[Any]:
        return [await session.call_tool(tool, asked) for tool, asked, _ in wrong]

    for (tool, asked, sentence), answer in zip(wrong, with_tools(url, ask)):
        told = " ".join(part.text for part in answer.content)
        assert answer.isError and sentence in told and "\n" not in told and len(told) < 300, (tool, asked, told)


def test_tools_look_at_photos_and_edit_many(url: str, photos: dict[str, Path]) -> None:
    photo, coffee = (upload(url, photos[name]) for name in ("astronaut", "coffee"))

    async def heard(*_: Any) -> None:
        """Asks gradio for each result by itself."""

    async def use(session: Any) -> dict[str, Any]:
        asked = {
            "faces": {"photo": photo},
            "shown": {"photo": photo},
            "emotions": {"photo": photo},
            "head": {"photo": photo},
            "buffers": {"photo": photo},
            "batch": {"photos": [photo, coffee], "prompt": "very sad"},
        }
        return {name: await session.call_tool(name, one, progress_callback=heard) for name, one in asked.items()}

    answers = with_tools(url, use)
    assert not any(answer.isError for answer in answers.values())
    text = lambda name, place=-1: answers[name].content[place].text
    assert answers["faces"].content[0].type == answers["emotions"].content[0].type == "image"
    assert "'number': 1" in text("faces") and "'largest': True" in text("faces")
    assert "'AU12': 0." in text("shown") and "'yaw'" in text("shown")  # she smiles
    assert "'caption': 'albedo'" in text("buffers")
    with urllib.request.urlopen(text("head")) as served:
        assert served.read(4) == b"glTF"
    with urllib.request.urlopen(text("batch", 0)) as served, zipfile.ZipFile(io.BytesIO(served.read())) as archive:
        assert archive.namelist() == ["astronaut.png"]
    assert NO_FACE in text("batch")


def test_plain_http_edits_a_photo(url: str, photos: dict[str, Path]) -> None:
    """As the page `?view=api` tells those who use curl."""
    path = upload(url, photos["astronaut"]).partition("file=")[2]
    data = {"photo": {"path": path, "meta": {"_type": "gradio.FileData"}}, "prompt": "a slight smile with wide eyes"}
    kind = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"{url}gradio_api/call/v2/edit", json.dumps(data).encode(), kind)
    with urllib.request.urlopen(call) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}gradio_api/call/edit/{event}") as answer:
        lines = answer.read().decode().splitlines()
    assert "event: complete" in lines
    [made] = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))
    with urllib.request.urlopen(made["url"]) as served:
        edited = np.asarray(Image.open(io.BytesIO(served.read())))
    assert (edited[FACE_BOX][..., :3] != ASTRONAUT[FACE_BOX]).any()


def test_python_clients_edit_many(url: str, photos: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    files = [handle_file(photos[name]) for name in ("astronaut", "coffee")]
    path, report = client.predict(photos=files, emotion="sad", api_name="/batch")
    assert zipfile.ZipFile(path).namelist() == ["astronaut.png"]
    assert [one["result"] for one in report] == ["astronaut.png", None]
