"""Stages 3 and 4 for many pairs in one process, against single calls: time, and whether the results are equal.

    python -m benchmarks.candidates --candidates paper_pairs.txt --data_dir /datasets/imagenet --model resnet50 \\
        --store_dir /store_dir

Needs a store that stages 1 and 2 have made; it is read and never written to. All other flags are those that
disentangle_channel.py and get_results.py share (--weights, --batch_size, --num_workers, --device, ...).
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import print_table, run
from utils.defaults import TAU
from utils.store.candidates import read_candidates

SCRIPTS = {"stage 3": "disentangle_channel.py", "stage 4": "get_results.py"}
CHANNEL_FLAGS = {"stage 3": "--channel_disentangle", "stage 4": "--channel_of_interest"}
PER_RUN = ("evaluation", "sha256")  # what a JSON of results says of its own making


def link_store(store_dir, folder):
    """A store whose files are links to those of stages 1 and 2; splits are made anew."""
    shutil.copytree(
        store_dir.resolve(), folder, copy_function=os.symlink, ignore=shutil.ignore_patterns("models_disentangled")
    )


def pair_flags(stage, pair):
    (class1,), (class2,) = pair.concepts
    return CHANNEL_FLAGS[stage], pair.channel, "--classes_for_concept1", class1, "--classes_for_concept2", class2


def results(folder):
    """What the runs in a folder have made: the bytes of splits, and results without what is of their own making."""
    splits = {path.name: path.read_bytes() for path in (folder / "store" / "models_disentangled").glob("*.pt")}
    found = {path.name: json.loads(path.read_text()) for path in (folder / "results_quantitative/pairs").iterdir()}
    return splits, {name: {k: v for k, v in pair.items() if k not in PER_RUN} for name, pair in found.items()}


def run_all(folder, stage, flags, calls):
    """Seconds that the calls of a stage take, each with its own flags."""
    shared = ["--store_dir", folder / "store", *flags]
    return sum(run(SCRIPTS[stage], *shared, *own)[0] for own in calls)


def get_options():
    """Own flags, and the rest for both scripts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--candidates", required=True, help="stage 2's table, or lines 'channel: class1, class2'")
    parser.add_argument("--pairs", type=int, help="the first so many (default: all)")
    parser.add_argument("--store_dir", type=Path, required=True)
    parser.add_argument("--only_correct", action="store_true", help="of stage 3")
    parser.add_argument("--proportion_attribution_required", default=str(TAU), help="tau, of stage 4")
    parser.add_argument("--repeat", type=int, default=1)
    return parser.parse_known_args()


def one_round(folder, pairs, flags):
    """{(stage, way): seconds}, and whether both ways have made the same."""
    lines = [f"{pair.channel}: {', '.join(class_ for (class_,) in pair.concepts)}" for pair in pairs]
    (folder / "pairs.txt").write_text("\n".join(lines))
    seconds = {}
    for stage in SCRIPTS:
        ways = {"single": [pair_flags(stage, pair) for pair in pairs]}
        ways["many"] = [("--candidates", folder / "pairs.txt")]
        for way, calls in ways.items():
            output = ["--output_dir", folder / way] if stage == "stage 4" else []
            seconds[stage, way] = run_all(folder / way, stage, [*flags[stage], *output], calls)
    return seconds, results(folder / "single") == results(folder / "many")


def main():
    args, rest = get_options()
    pairs = read_candidates(args.candidates).candidates[: args.pairs]
    flags = {
        "stage 3": [*rest, *(["--only_correct"] if args.only_correct else [])],
        "stage 4": [
            *rest,
            "--get_quantitative",
            "--proportion_attribution_required",
            args.proportion_attribution_required,
        ],
    }
    rounds = []
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as folder:
            for way in ("single", "many"):
                link_store(args.store_dir, Path(folder) / way / "store")
            rounds.append(one_round(Path(folder), pairs, flags))
    uses = [class_ for pair in pairs for class_ in itertools.chain(*pair.concepts)]
    shared = f"{len(uses)} / {len(set(uses))} = {len(uses) / len(set(uses)):.2f}"
    rows = []
    for stage in SCRIPTS:
        single, many = ([seconds[stage, way] for seconds, _ in rounds] for way in ("single", "many"))
        ratio = statistics.median(one / other for one, other in zip(single, many, strict=True))
        times = [f"{statistics.median(values):.1f} s" for values in (single, many)]
        rows.append((stage, len(pairs), *times, f"{ratio:.2f}", shared))
    header = ("single calls", "--candidates", "ratio", "class uses / distinct classes")
    print_table(("", "pairs", *header), rows)
    if not all(equal for _, equal in rounds):
        raise SystemExit("the results of --candidates differ from those of single calls")
    print("\nsplits equal byte for byte, results equal")


if __name__ == "__main__":
    main()
