"""Broken files through everything that reads files: nothing but clear errors, no hang, no memory out of bounds.

    python tests/fuzz/run.py photos|checkpoints|media [--count N] [--seed S] [--case I]

`--case` runs one case of a seed again, in this process, so that its error can be seen. The exit code is 1 where a case
broke the rule. `worker.py` holds the limits.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has none of its parent's threads
HERE = Path(__file__).parent
SUITES = {"photos": ("photo_cases", 10_000), "checkpoints": ("checkpoint_cases", 1000), "media": ("media_cases", 1000)}
"""What is broken -> module, and cases of the long form."""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SUITES)
    parser.add_argument("--count", type=int, help="cases (default: 10,000 photos, 1,000 of the others)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--short", action="store_true", help="without faces and edits, which take seconds to begin")
    parser.add_argument("--case", type=int, help="only this one, without limits")
    args = parser.parse_args()
    import worker  # beside this file

    module, count = SUITES[args.what]
    suite = importlib.import_module(module).suite(args.seed, *([False] if args.short and args.what == "photos" else []))
    if args.case is not None:
        suite.start()
        with tempfile.TemporaryDirectory() as folder:
            print(suite.make(args.case, Path(folder)), sorted(Path(folder).rglob("*")))
            suite.read(args.case, Path(folder))
        return 0
    outcomes = worker.run(suite, range(args.first, args.first + (args.count or count)), lambda t: print(t, flush=True))
    print(worker.summary(outcomes))
    return int(any(outcome.bad for outcome in outcomes))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), *(str(f) for f in HERE.parent.iterdir() if f.is_dir()), str(HERE.parent)]
    sys.exit(main())
