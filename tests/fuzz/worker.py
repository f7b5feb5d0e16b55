"""Cases run in a fork of this process, one after the other, under limits of memory and processor time.

A fork that dies is told of, with the case that it died of, and another one goes on behind it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECONDS = 10.0
"""Processor time of one case, of all its threads; one that takes more hangs."""
MEMORY = 3 * 2**30
"""Bytes of address space that a case may take beside what the process had before: a picture of io.MAX_PIXELS needs
about 2.3 GB (16 bits a channel, decoded, turned and copied)."""
_WALL = 900  # seconds without a word after which a fork is stuck, however busy the machine is


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: Its number.
        what: "read", "refused", "crash", "hang", "dead" (by a signal) or "left" (files stay behind).
        about: The error's type and words, or the files.
        kind: Of file.
        seconds: Processor time.
        memory: Bytes by which the most memory in use grew beyond that of the fork's first moment.
    """

    case: int
    what: str
    about: str = ""
    kind: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def bad(self) -> bool:
        """Whether it breaks the rule."""
        return self.what not in ("read", "refused")


@dataclass(frozen=True)
class Suite:
    """Cases of one sort.

    Attributes:
        make: Writes the files of a case, by its number, into a folder; what kind of file it is.
        read: Does with that folder what users do; raises one of `refusals` or nothing.
        refusals: The package's own errors.
        start: Called once in each fork.
    """

    make: Callable[[int, Path], str]
    read: Callable[[int, Path], None]
    refusals: tuple[type[BaseException], ...]
    start: Callable[[], Any] = lambda: None


def run(suite: Suite, cases: range, say: Callable[[str], None] = print) -> list[Outcome]:
    """The outcome of every case, in order; `say` is told of each that breaks the rule."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        for outcome in _fork(suite, cases[len(outcomes) :]):
            outcomes.append(outcome)
            if outcome.bad:
                say(f"  case {outcome.case} ({outcome.kind}): {outcome.what}: {outcome.about}")
            if len(outcomes) % 1000 == 0:
                say(f"  {len(outcomes)} cases")
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    """The figures of a run, and of each kind of file."""
    counts, by_kind = Counter(o.what for o in outcomes), Counter((o.kind, o.what) for o in outcomes)
    kinds = sorted({o.kind for o in outcomes})
    lines = [f"  {kind}: {', '.join(f'{n} {w}' for (k, w), n in sorted(by_kind.items()) if k == kind)}"
             for kind in kinds]  # fmt: skip
    longest, most = max(o.seconds for o in outcomes), max(o.memory for o in outcomes)
    bad = sum(o.bad for o in outcomes)
    head = f"{len(outcomes)} cases: {', '.join(f'{n} {what}' for what, n in counts.most_common())}; {bad} bad"
    tail = f"longest {longest:.2f} s of processor time, at most {most / 2**20:.0f} MiB more in use"
    return "\n".join([head, *lines, tail])


def _fork(suite: Suite, cases: range) -> Iterator[Outcome]:
    """Outcomes until the fork ends, the last one that of its death."""
    reading, writing = os.pipe()
    scratch = Path(tempfile.mkdtemp(prefix="emorig-fuzz-"))
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(suite, cases, writing, scratch)
    os.close(writing)
    done = 0
    try:
        with os.fdopen(reading, "rb") as lines:
            while select.select([lines], [], [], _WALL)[0] and (line := lines.readline()):
                yield Outcome(**json.loads(line))
                done += 1
    finally:
        if done < len(cases):
            os.kill(child, signal.SIGKILL) if not _ended(child) else None
        status = _status(child)
        kind = (scratch / "kind").read_text() if (scratch / "kind").is_file() else ""
        shutil.rmtree(scratch, ignore_errors=True)
    if done < len(cases):
        number = -status if status < 0 else 0
        what = "hang" if number in (signal.SIGPROF, signal.SIGKILL) else "dead"
        name = signal.Signals(number).name if number else f"exit {status}"
        yield Outcome(cases[done], what, name, kind, SECONDS if what == "hang" else 0.0)


_statuses: dict[int, int] = {}


def _ended(child: int) -> bool:
    """Whether a fork ends by itself now that it says nothing more."""
    for _ in range(100):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _statuses[child] = os.waitstatus_to_exitcode(status)
            return True
        time.sleep(0.05)
    return False


def _status(child: int) -> int:
    return _statuses.pop(child) if child in _statuses else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work(suite: Suite, cases: range, writing: int, scratch: Path) -> None:
    """The fork's life."""
    try:
        warnings.simplefilter("ignore")
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        place, temporary = scratch / "case", scratch / "tmp"
        temporary.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch)  # which torch makes when it is first used
        suite.start()
        gc.freeze()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (_mapped() + MEMORY, -1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        first = _peak()
        for case in cases:
            place.mkdir()
            (scratch / "kind").write_text("?")
            kind = suite.make(case, place)
            (scratch / "kind").write_text(kind)
            os.chdir(place)
            outcome = _judge(suite, case, place, temporary, kind, first)
            os.write(writing, json.dumps(asdict(outcome)).encode() + b"\n")
            os.chdir(scratch)
            for folder in (place, temporary):
                shutil.rmtree(folder)
            temporary.mkdir()
    except BaseException:
        (scratch / "error").write_text(traceback.format_exc())
        os._exit(3)
    os._exit(0)


def _judge(suite: Suite, case: int, place: Path, temporary: Path, kind: str, first: int) -> Outcome:
    before, start = _names(place), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    what, about = "read", ""
    try:
        suite.read(case, place)
    except suite.refusals as error:
        what, about = "refused", f"{type(error).__name__}: {error}"
        if "\n" in str(error).strip():
            what = "crash"  # one sentence is one line
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        mine = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "emorig" in f.filename][-3:]
        what, about = "crash", f"{type(error).__name__}: {error} at {' > '.join(mine)}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    left = sorted(_names(place) - before) + sorted(_names(temporary))
    if left:
        what, about = "left", f"{', '.join(left)[:200]} ({about})"
    return Outcome(case, what, about[:600], kind, time.process_time() - start, _peak() - first)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _peak() -> int:
    """Most bytes in use so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mapped() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
