"""The demo as a server: many clients at once, each with a photo of its own, while others try what they should not.

    python tests/benchmarks/soak.py [--minutes 20] [--clients 8] [--study]

A real `space/app.py` on the loopback is asked for edits and animations; every result is compared with the one that was
computed here beforehand, and bears its asker's mark. Meanwhile its memory is read, `/health` is asked every second, and
in turns requests are sent by halves, uploads broken off, files of the server and of others asked for, too large files
and pictures uploaded, and more jobs sent than may wait. Then `emorig study` in short. Ends with 1 where anything was
wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from skimage import data

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "tests"))
from processes import free_port  # noqa: E402

STARTING = 300  # seconds a server may take to start on a busy machine
PATIENCE = 300  # seconds a request may take there
BLOCK = 16  # side of a bit of a mark, pixels
BITS = 8
EMOTIONS = ("happy", "sad", "surprise", "anger")
ALIKE = 0.25  # grey levels by which a result may differ from the expected one on the average, of sums in another order
WARM = 0.25  # share of the time that counts as warming up
SLOPE = 2.0  # MB a minute by which memory may grow after it
SETTLED = 15  # seconds from the first page on, in which gradio's launch may not be over: reading is limited after it
LORIS = 60  # connections that send a request by halves


@dataclass
class Asker:
    """A client's photo, and what is expected of it.

    Attributes:
        number: Its mark, of BITS bits.
        path: The photo.
        expected: Emotion -> the result, uint8 [H, W, 3].
    """

    number: int
    path: Path
    expected: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Report:
    """What happened.

    Attributes:
        counts: Of what kind of thing how many were seen.
        faults: Sentences.
        seconds: Kind -> how long each took.
        memory: (seconds since the start, bytes).
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def check(self, kind: str, right: bool, fault: str) -> None:
        """Count something that has to be right."""
        self.counts[kind] += 1
        if not right:
            self.faults.append(f"{kind}: {fault}")

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds.setdefault(kind, []).append(time.monotonic() - start)

    def minutely(self) -> list[float]:
        """Bytes of memory, the median of every minute."""
        minutes: dict[int, list[int]] = {}
        for at, size in self.memory:
            minutes.setdefault(int(at // 60), []).append(size)
        return [statistics.median(sizes) for _, sizes in sorted(minutes.items())]

    def slope(self) -> float:
        """MB a minute of memory after the warm-up."""
        end = self.memory[-1][0]
        times, sizes = np.array([one for one in self.memory if one[0] > WARM * end]).T
        return float(np.polyfit(times / 60, sizes / 1e6, 1)[0]) if len(times) > 2 else 0.0


def marked_photos(folder: Path, count: int) -> list[Asker]:
    """Photos of one face in different light, each with its number in black and white along the lower edge."""
    face, askers = data.astronaut()[:320, 60:380], []
    for number in range(1, count + 1):
        tint = 0.75 + 0.25 * np.array([(number >> i) & 1 for i in range(3)])
        rgb = (face * tint).astype(np.uint8)
        for i in range(BITS):
            rgb[-BLOCK:, i * BLOCK : (i + 1) * BLOCK] = 255 * ((number >> i) & 1)
        askers.append(Asker(number, folder / f"asker{number}.png"))
        Image.fromarray(rgb).save(askers[-1].path)
    return askers


def read_mark(rgb: np.ndarray) -> int:
    """The number in a picture."""
    middle = [rgb[-BLOCK // 2, i * BLOCK + BLOCK // 2].mean() for i in range(BITS)]
    return sum((value > 127) << i for i, value in enumerate(middle))


def expect(askers: Sequence[Asker], emotions: Sequence[str], pipe: Any) -> None:
    """Compute what the server should answer."""
    import torch

    for asker in askers:
        for emotion in emotions:
            result = pipe(str(asker.path), emotion, generator=torch.Generator().manual_seed(0))
            path = asker.path.with_name("expected.png")
            result.save(path)
            asker.expected[emotion] = np.asarray(Image.open(path).convert("RGB"))


@contextmanager
def serve(command: Sequence[str | Path], folder: Path, path: str = "") -> Iterator[tuple[str, subprocess.Popen]]:
    """Run a server with its files in a folder; its address as soon as a path of it answers."""
    port = free_port()
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "GRADIO_TEMP_DIR": str(folder / "files")}
    with (folder / "log").open("w") as log:
        words = [sys.executable, *map(str, command), "--port", str(port)]
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            url, end = f"http://127.0.0.1:{port}/", time.monotonic() + STARTING
            while not answers(url + path):
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"The server did not start: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield url, server
        finally:
            server.terminate()
            server.wait(STARTING)


def answers(address: str) -> bool:
    """Whether an address is there."""
    with suppress(OSError), urllib.request.urlopen(address, timeout=30):
        return True
    return False


def request(url: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer."""
    asked = urllib.request.Request(url + path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(url: str, name: str, content: bytes) -> tuple[int, Any]:
    """Upload a file; where the server put it."""
    form = (
        f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--edge--\r\n"
    )
    status, answer = request(url, "gradio_api/upload", form, Content_Type="multipart/form-data; boundary=edge")
    return status, json.loads(answer)[0] if status == 200 else answer


def call(url: str, name: str, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What an endpoint answers to a program: the last message, or why it was not let in."""
    with urllib.request.urlopen(url + "config", timeout=PATIENCE) as answer:
        config = json.load(answer)
    parts = {part["id"]: part for part in config["components"]}
    event = next(one for one in config["dependencies"] if one["api_name"] == name)
    inputs = [parts[i]["props"] for i in event["inputs"]]
    given = [values.get(props.get("label") or "", props.get("value")) for props in inputs]
    return join(url, event["id"], given)


def join(url: str, event: int, given: Sequence[Any], query: str = "") -> tuple[int, dict[str, Any]]:
    """The last message of an event that is asked for as the page does it."""
    session = secrets.token_hex(8)
    body = json.dumps({"data": list(given), "fn_index": event, "session_hash": session}).encode()
    status, answer = request(url, f"gradio_api/queue/join{query}", body, Content_Type="application/json")
    if status != 200:
        return status, json.loads(answer)
    asked = f"{url}gradio_api/queue/data?session_hash={session}"
    with urllib.request.urlopen(asked, timeout=PATIENCE) as lines:
        messages = (json.loads(line[5:]) for line in lines if line.startswith(b"data:"))
        return 200, next(m for m in messages if m["msg"] in ("process_completed", "unexpected_error"))


def drawn(url: str, asker: Asker, endpoint: str, what: str, report: Report, **given: Any) -> np.ndarray | None:
    """The picture uint8 [H, W, 3] that an endpoint makes of the asker's photo; `None` where there is none yet, or it
    fails."""
    with report.timing(what):
        _, path = upload(url, asker.path.name, asker.path.read_bytes())
        status, message = call(url, endpoint, {"photo": {"path": path}, **given})
    if status == 429:
        report.counts["told to come again"] += 1
        return None
    if not message.get("success"):
        report.check(f"{what}s", False, str(message)[:200])
        return None
    _, picture = request(url, f"gradio_api/file={urllib.parse.quote(message['output']['data'][0]['path'])}")
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def edit(url: str, asker: Asker, emotion: str, report: Report) -> None:
    """An edit, whose result has to be the asker's."""
    made, wanted = drawn(url, asker, "edit", "edit", report, emotion=emotion), asker.expected[emotion]
    if made is None:
        return
    mark = read_mark(made)
    report.check("results that bear their asker's mark", mark == asker.number, f"{asker.number} got another's")
    far = float(np.abs(made.astype(int) - wanted).mean()) if made.shape == wanted.shape else 255.0
    report.check("results as expected", far <= ALIKE, f"{asker.number} {emotion} differs by {far:.2f} grey levels")
    report.counts["results equal to the bit"] += bool((made == wanted).all()) if made.shape == wanted.shape else 0


def animate(url: str, asker: Asker, report: Report) -> None:
    """An animation, whose frames have to be the asker's."""
    given = {"emotion": "happy", "format": "WebP", "seconds": 0.5}
    made = drawn(url, asker, "animate", "animation", report, **given)
    if made is None:
        return
    mark = read_mark(made)
    report.check("animations that bear their asker's mark", mark == asker.number, f"{asker.number} got another's")


def ask_for_others(url: str, asker: Asker, files: Path, report: Report) -> None:
    """Files of the server, of its user and of other visitors, by paths that can be guessed."""
    content = asker.path.read_bytes()
    _, path = upload(url, "../../../escape.png", content)
    own = Path(path)
    told = own.is_relative_to(files) and own.name == "escape.png"
    report.check("uploads that stay where they belong", told, path)
    told = own.parent.name == hashlib.sha256(content).hexdigest()
    report.check("paths that cannot be guessed", not told, "the folder is the file's sha256")
    guesses = [
        own.parent.parent, own.parent, f"{files}/{hashlib.sha256(content).hexdigest()}/{asker.path.name}", asker.path,
        "/etc/passwd", "/proc/self/environ", "/tmp", REPOSITORY / "README.md", REPOSITORY / "space/app.py", Path.home(),
        "README.md", "app.py", f"{own.parent}/../../log", f"{own.parent}/%2e%2e/%2e%2e/log", f"{files}/../log",
        "file:///etc/passwd", "http://example.com/", f"{url}health",
    ]  # fmt: skip
    addresses = [f"gradio_api/file={guess}" for guess in guesses] + [f"gradio_api/file/{guess}" for guess in guesses]
    addresses += [
        "gradio_api/proxy=https://example.com/", "monitoring", "monitoring/summary", "static/../../../etc/passwd",
        "assets/..%2f..%2f..%2f..%2fetc%2fpasswd", "gradio_api/custom_component/1/client/component/../app.py",
    ]  # fmt: skip
    for address in addresses:
        status = raw_status(url, "GET", address)
        report.check("paths of others refused", status not in (200, 206, 301, 302, 307), f"{address}: {status}")
    status = raw_status(url, "POST", "gradio_api/process_recording")
    report.check("paths of others refused", status == 404, f"process_recording: {status}")
    for guess in (asker.path, REPOSITORY / "space/astronaut_emotions.jpg", f"{own.parent}/../../log"):
        for photo in ({"path": str(guess)}, {"path": str(guess), "meta": {"_type": "gradio.FileData"}}):
            status, message = call(url, "edit", {"photo": photo})
            report.check("photos of others refused", status == 429 or not message.get("success"), str(guess))


def raw_status(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    """Status of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, f"/{path}", body, {k.replace("_", "-"): v for k, v in headers.items()})
        return connection.getresponse().status
    except ConnectionError:
        return 413  # refused before all of it was read
    finally:
        connection.close()


def send_too_much(url: str, report: Report) -> None:
    """Files of too many bytes, told and not told, and pictures of too many pixels."""
    told = raw_status(url, "POST", "gradio_api/upload", b"x", Content_Length="900000000")
    report.check("too large files refused", told == 413, f"told beforehand: {told}")
    told = raw_status(url, "POST", "gradio_api/queue/join", b"x" * 21_000_000, Content_Type="application/json")
    report.check("too large files refused", told == 413, f"21 MB of JSON: {told}")
    picture = io.BytesIO()
    Image.new("1", (20_000, 6_000)).save(picture, "PNG")
    _, path = upload(url, "bomb.png", picture.getvalue())
    status, message = call(url, "edit", {"photo": {"path": path}})
    said = str(message.get("output", {}).get("error", message))
    report.check("pictures of too many pixels refused", status == 429 or "megapixels" in said, said)


def flood(url: str, jobs: int, report: Report) -> None:
    """More jobs than may wait: the last are told when to come again, and `/health` answers."""
    with urllib.request.urlopen(url + "config", timeout=PATIENCE) as answer:
        config = json.load(answer)
    event = next(one for one in config["dependencies"] if one["api_name"] == "edit")
    parts = {part["id"]: part for part in config["components"]}
    given = [parts[i]["props"].get("value") for i in event["inputs"]]  # without a photo, which is said quickly
    refused = []
    for _ in range(jobs):
        body = json.dumps({"data": given, "fn_index": event["id"], "session_hash": secrets.token_hex(8)}).encode()
        status, answer = request(url, "gradio_api/queue/join", body, Content_Type="application/json")
        if status == 429:
            refused.append(json.loads(answer)["detail"])
    report.counts["jobs of a flood told to come again"] += len(refused)
    for sentence in refused[:1]:
        right = re.search(r"\d+ jobs wait: please try again in ", sentence)
        report.check("sentences of the flood", right is not None, sentence)
        print(f"  busy: {sentence!r}", flush=True)


class Halves:
    """Connections whose requests never end: headers, and uploads."""

    def __init__(self, url: str, count: int) -> None:
        parts = urllib.parse.urlsplit(url)
        self.open: list[socket.socket] = []
        self.start = time.monotonic()
        for i in range(count):
            one = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=30)
            one.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: " if i % 3 else
                        b"POST /gradio_api/upload HTTP/1.1\r\nHost: here\r\nContent-Length: 90000\r\nContent-Type: "
                        b'multipart/form-data; boundary=edge\r\n\r\n--edge\r\nContent-Disposition: form-data; '
                        b'name="files"; filename="half.png"\r\n\r\nabc')  # fmt: skip
            self.open.append(one)

    def drip(self) -> None:
        """Send a byte more in each."""
        for one in self.open:
            with suppress(OSError):
                one.sendall(b"a")

    def closed(self) -> int:
        """How many the server has closed."""
        return len(self.open) - len(self.left())

    def left(self) -> list[int]:
        """Which the server has not closed."""
        left = []
        for i, one in enumerate(self.open):
            one.setblocking(False)
            try:
                while one.recv(1000):
                    pass
            except BlockingIOError:
                left.append(i)
            except OSError:
                continue
        return left

    def close(self) -> None:
        for one in self.open:
            one.close()


def send_halves(url: str, count: int, seconds: float, report: Report) -> None:
    """Send requests by halves for so long, and count which the server has closed by then."""
    halves = Halves(url, count)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 10))
        halves.drip()
    left = halves.left()
    report.counts["requests sent by halves"] += count
    report.check("rounds of halves", not left, f"of {count} are open after {seconds:.0f} s: {left}")
    halves.close()


def watch(url: str, server: subprocess.Popen, report: Report, end: threading.Event) -> None:
    """Read the server's memory, and ask how it is."""
    process, start = psutil.Process(server.pid), time.monotonic()
    while not end.wait(1.0):
        report.memory.append((time.monotonic() - start, process.memory_info().rss))
        asked = time.monotonic()
        try:
            status, answer = request(url, "health")
            told = json.loads(answer)
            report.check("answers of /health", status == 200 and told["status"] == "ok", str(told))
            most = max(report.counts["most jobs that waited"], told["queue"]["waiting"])
            report.counts["most jobs that waited"] = most
        except OSError as error:
            report.check("answers of /health", False, str(error))
        report.seconds.setdefault("/health", []).append(time.monotonic() - asked)


def until(end: float, work: Callable[[int], None], report: Report) -> threading.Thread:
    """A thread that does something again and again; what it raises is a fault."""

    def run() -> None:
        done = 0
        while time.monotonic() < end:
            try:
                work(done)
            except Exception as error:
                report.faults.append(f"{type(error).__name__}: {error}"[:300])
                time.sleep(1)
            done += 1

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def soak(folder: Path, clients: int, minutes: float) -> Report:
    """Ask a server for so long."""
    from emorig_diffusers import EmoRigPipeline
    from emorig_diffusers.serving import MOST_WAITING, READ_SECONDS

    report, askers = Report(), marked_photos(folder, clients)
    pipe = EmoRigPipeline.from_pretrained("emorig-open")
    pipe.set_progress_bar_config(disable=True)
    expect(askers, EMOTIONS, pipe)
    del pipe
    print(f"expected {len(askers) * len(EMOTIONS)} results", flush=True)
    with serve([REPOSITORY / "space/app.py"], folder) as (url, server):
        end, over = time.monotonic() + 60 * minutes, threading.Event()
        watcher = threading.Thread(target=watch, args=(url, server, report, over))
        watcher.start()

        def ask(asker: Asker) -> Callable[[int], None]:
            def turn(done: int) -> None:
                if done % 10 == 9:
                    animate(url, asker, report)
                else:
                    edit(url, asker, EMOTIONS[(asker.number + done) % len(EMOTIONS)], report)

            return turn

        def trouble(done: int) -> None:
            if done % 4 == 0:
                send_halves(url, LORIS, 1.5 * READ_SECONDS + SETTLED * (done == 0), report)
            elif done % 4 == 1:
                ask_for_others(url, askers[0], folder / "files", report)
            elif done % 4 == 2:
                send_too_much(url, report)
            else:
                flood(url, MOST_WAITING + 10, report)
                time.sleep(10)

        threads = [until(end, work, report) for work in [*map(ask, askers), trouble]]
        for thread in threads:
            thread.join()
        over.set()
        watcher.join()
        report.check("servers that still run", server.poll() is None, "it has ended")
        left = [file for file in (folder / "files").rglob("*") if file.is_file()]
        print(f"  files of visitors: {len(left)}, {sum(file.stat().st_size for file in left) / 1e6:.0f} MB")
    check_log(folder / "log", report)
    return report


def check_log(path: Path, report: Report) -> None:
    """A server's log may tell of paths that gradio refused, and of no other error."""
    ends = re.findall(r"^Traceback .*?^(\S[^\n]*)$", path.read_text(), re.MULTILINE | re.DOTALL)
    others = [line for line in ends if not line.startswith(("gradio.exceptions.InvalidPath", "The above exception"))]
    report.check("logs without errors", not others, "; ".join(sorted(set(others)))[:600])


def soak_study(folder: Path, participants: int) -> Report:
    """Participants of a study at once, each of whom answers all questions; every answer is kept, as its own."""
    from emorig_diffusers.evaluation.study.store import Store

    report = Report()
    for i in range(3):
        for place in ("source", "ours/happy", "theirs/happy"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(data.astronaut()[20:220, 130:310], 7 * i, 1)).save(folder / place / f"{i}.png")
    words = ["study", "--edited", "ours", folder / "ours", "--edited", "theirs", folder / "theirs"]
    words += ["--source", folder / "source", "--questions", "6", "-o", folder / "study"]
    with serve(["-m", "emorig_diffusers", *words], folder) as (url, _):
        with urllib.request.urlopen(url + "config", timeout=PATIENCE) as answer:
            events = [one for one in json.load(answer)["dependencies"] if one["backend_fn"]]
        _, agree, _, *sides = [one["id"] for one in events]
        halves = Halves(url, LORIS)
        store, answered = Store(folder / "study"), Counter()

        def take_part(number: int) -> None:
            who = f"participant{number}"
            join(url, agree, [who])
            while (following := store.next_question(who)) is not None:
                position, question = following
                event = sides[0] if question.kind != "emotion" else sides[2]
                _, message = join(url, event, [who, position, 1.0 + number])
                report.check("answers of a study", bool(message.get("success")), str(message)[:200])
                answered[who] += 1

        threads = [threading.Thread(target=take_part, args=(i,)) for i in range(participants)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in store.participants():
            kept = one.answers
            own = all(answer.seconds == 1.0 + int(one.id.removeprefix("participant")) for answer in kept)
            report.check("participants with all their answers", own and len(kept) == answered[one.id], one.id)
        status, _ = upload(url, "a.png", b"abc")
        report.check("uploads to a study refused", status == 404, str(status))
        for address in ("gradio_api/file=/etc/passwd", f"gradio_api/file={folder}/study/answers.sqlite", "monitoring"):
            status = raw_status(url, "GET", address)
            report.check("paths of others refused", status in (403, 404), f"{address}: {status}")
        report.check("answers of /health", request(url, "health")[0] == 200, "none")
        from emorig_diffusers.serving import READ_SECONDS

        time.sleep(max(0.0, READ_SECONDS + 5 - (time.monotonic() - halves.start)))
        report.check("rounds of halves", halves.closed() == LORIS, f"{LORIS - halves.closed()} are open")
        halves.close()
    return report


def print_report(title: str, report: Report) -> None:
    print(f"\n{title}")
    for kind, count in sorted(report.counts.items()):
        print(f"  {kind}: {count}")
    for kind, each in report.seconds.items():
        worst = f"median {statistics.median(each):.2f} s, 99 % {np.percentile(each, 99):.2f} s, most {max(each):.2f} s"
        print(f"  {kind}: {worst}")
    if report.memory:
        after = [size for at, size in report.memory if at > WARM * report.memory[-1][0]]
        warm, last, most = (size / 1e6 for size in (after[0], after[-1], max(after)))
        print(f"  memory (RSS): {warm:.0f} MB after warm-up, {last:.0f} MB at the end, {most:.0f} MB at most", end="")
        print(f"; {report.slope():+.2f} MB a minute")
        print("  memory minute by minute, MB:", *(f"{size / 1e6:.0f}" for size in report.minutely()))
    print(f"  faults: {len(report.faults)}")
    for fault in report.faults[:20]:
        print(f"    {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--study", action="store_true", help="the study's server alone")
    args = parser.parse_args()
    bad = 0
    if not args.study:
        with tempfile.TemporaryDirectory() as folder:
            report = soak(Path(folder), args.clients, args.minutes)
        print_report(f"{args.clients} clients, {args.minutes:g} minutes, load {os.getloadavg()[1]:.0f}", report)
        bad += len(report.faults) + (report.slope() > SLOPE)
    with tempfile.TemporaryDirectory() as folder:
        report = soak_study(Path(folder), args.clients)
    print_report(f"a study, {args.clients} participants", report)
    sys.exit(bad + len(report.faults) > 0)


if __name__ == "__main__":
    main()
