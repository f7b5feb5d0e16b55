"""Make scans of heads to train and to measure neural parametric heads by, where there is no data set.

    python train/make_scans.py SCANS [--source gnm gnm_head.npz]
    accelerate launch train/train_nphm.py --config train/presets/nphm-tiny.yaml --train_data_dir SCANS/train
        --output_dir run

SCANS/train is to train on; SCANS/held_out has identities and expressions that no training sees, for
`emorig head evaluate`. What is made: `emorig_diffusers/data/made_scans.py`; of the open head, or of Google's GNM Head
where you have fetched it (Apache-2.0; google/gnm-v3 on the Hub), whose people were learnt from scans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm.auto import tqdm

from emorig_diffusers.data.gnm import GnmMaker, read_gnm
from emorig_diffusers.data.made_scans import Collection, ScanMaker, plan_scans
from emorig_diffusers.data.scans import write_scan
from emorig_diffusers.pipelines.emorig import EmoRigPipeline
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line; scans that are there already are kept, so that it can be stopped and started again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, default = parser.add_argument, Collection()
    add("out", type=Path, help="folder of the scans, new or an earlier run's")
    add("--people", type=int, default=default.people, help="of each of three kinds (default: %(default)s)")
    add("--expressions", type=int, default=default.expressions, help="of each (default: %(default)s)")
    add("--held_out", type=int, default=default.held_out, help="people of each kind (default: %(default)s)")
    add("--held_out_expressions", type=int, default=default.held_out_expressions, help="(default: %(default)s)")
    add("--noise", type=float, default=default.noise, help="of held-out scans, metres (default: %(default)s)")
    add("--pretrained_model_name_or_path", default="emorig-open", help="gives the head (default: %(default)s)")
    add("--source", nargs=2, metavar=("gnm", "FILE"), help="take GNM Head from gnm_head.npz in place of that head")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = args.people, args.expressions, args.held_out, args.held_out_expressions
    if min(counts) < 0 or args.noise < 0 or args.seed < 0:
        parser.error("Numbers of people and expressions, noise and seed must not be negative.")
    if args.source and args.source[0] != "gnm":
        parser.error(f"--source knows gnm, not {args.source[0]!r}.")
    with refusals():
        if args.source:
            maker = GnmMaker(read_gnm(Path(args.source[1])))
        else:
            maker = ScanMaker(EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path).head)
        for place, make in tqdm(list(plan_scans(maker, Collection(*counts, args.noise), args.seed)), desc="scans"):
            file = args.out / place
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_scan(make(), file)


if __name__ == "__main__":
    main()
