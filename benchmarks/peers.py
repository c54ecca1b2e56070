"""Stage 1 beside what others would pick to find the strongest images of all units of a layer.

    pip install semanticlens==0.2.1 zennit-crp==0.6.0
    python -m benchmarks.peers --data_dir tiny-imagenet --model resnet50 --images 400

On the same images, network and layer, in turns, each way in a process of its own:

- `published`: the published procedure (benchmarks/published.py), stage 1 of the paper's code.
- `ours`: stage 1, then from its store the 100 strongest images of all units, by spatial sum.
- `ours, patches`: the pass of `get_results.py --report`, the strongest patches of all units by largest activation.
- `SemanticLens`: its collection of the 100 strongest images of all units, by spatial mean.
- `zennit-crp`: its feature visualization with the settings of PURE's preprocessing: the 100 strongest images by largest
  activation and the 40 strongest by relevance, of all units and for each class.

Both packages are from the package index, and nothing else of the project needs them; exit status 2 if they are not
there. Time is measured from the loaded network to the last file. CPU time is that of all processes; ratios are of CPU
time, so other programs on the machine matter less. Batches have 64 images (--batch_size), with zennit-crp 32, which is
its default and PURE's. All other flags are those of stage 1.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.full_size.measuring import end_children_by_signal, measure
from benchmarks.peers_ways import WAYS, stage1_parser
from benchmarks.report import ROOT, link_images, print_table
from utils.images.folders import class_folders

PACKAGES = {"SemanticLens": ("semanticlens", "0.2.1"), "zennit-crp": ("zennit-crp", "0.6.0")}
FIRST = "published"
HEADER = ("way", "images/s", "CPU time an image", "ratio", "peak memory", "disk", "what it gives")
GIVES = {
    "published": "importances, the layer's input, output and gradient of each image",
    "ours": "importances and sums of the layer's input of each image; strongest images of all units and of any split",
    "ours, patches": "16 strongest patches of all units, and where they are",
    "SemanticLens": "100 strongest images of all units",
    "zennit-crp": "100 strongest images of all units and where, 40 by relevance, and 40 for each class",
}


def installed(ways: list[str]) -> dict[str, str]:
    """Versions of the packages of some ways; ends with exit status 2 if one is missing."""
    versions, missing = {}, []
    for way in ways:
        if way in PACKAGES:
            package, tried = PACKAGES[way]
            try:
                versions[way] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                missing.append(f"{package}=={tried}")
    if missing:
        print(f"benchmarks.peers: error: not installed: pip install {' '.join(missing)}", file=sys.stderr)
        sys.exit(2)
    return versions


def measure_way(way: str, folder: Path, flags: list[str]) -> dict:
    """Run a way in a process of its own, into an empty folder with links to the same images."""
    command = [sys.executable, "-m", "benchmarks.peers_ways", way, folder, *flags]
    environment = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    log = folder / "log.txt"
    measured = measure(command, environment=environment, log=log)
    if measured.status:
        raise SystemExit(f"{way} failed:\n{log.read_text(errors='replace')}")
    result = json.loads((folder / "result.json").read_text())
    size = sum(path.stat().st_size for path in (folder / "written").rglob("*") if path.is_file())
    return {**result, "memory": measured.memory, "disk": size}


def row(way: str, runs: dict[str, list[dict]], count: int, versions: dict[str, str]) -> tuple[str, ...]:
    """The cells of a way: medians over rounds."""
    own = {name: statistics.median(run[name] for run in runs[way]) for name in ("seconds", "cpu", "memory", "disk")}
    ratios = [first["cpu"] / run["cpu"] for first, run in zip(runs[FIRST], runs[way], strict=True)]
    return (
        f"{way} {versions.get(way, '')}".strip(),
        f"{count / own['seconds']:.1f}",
        f"{own['cpu'] / count * 1000:.0f} ms",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{own['memory'] / 1e9:.2f} GB",
        f"{own['disk'] / 1e6:.1f} MB",
        GIVES[way],
    )


def shared_share(images: list[list[int]], others: list[list[int]]) -> float:
    """The mean share of units' strongest images that two ways have in common."""
    shares = [len(set(own) & set(other)) / len(set(own)) for own, other in zip(images, others, strict=True)]
    return statistics.mean(shares)


def get_options() -> tuple[argparse.Namespace, list[str]]:
    """Own flags, and those of stage 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="in all, as many of each class, rounded up (400)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (3)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    return parser.parse_known_args()


def main() -> None:
    options, rest = get_options()
    end_children_by_signal()
    settings = stage1_parser().parse_args(rest)
    ways = [way for way in WAYS if way == FIRST or way in options.ways]
    versions = installed(ways)
    runs: dict[str, list[dict]] = {way: [] for way in ways}
    train = Path(settings.data_dir) / "train"
    per_class = -(-options.images // len(class_folders(train)))
    for _ in range(options.repeat):
        for way in ways:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                count = link_images(train, folder / "train", per_class)
                runs[way].append(measure_way(way, folder, rest))
                shown = {key: value for key, value in runs[way][-1].items() if key != "strongest"}
                print(f"{way}: {shown}", file=sys.stderr, flush=True)  # what is known if all of it is stopped
    print_table(HEADER, [row(way, runs, count, versions) for way in ways])
    print(f"\n{count} images; ratio: CPU time of the published procedure over that of the way")
    for first, second in (("ours", "SemanticLens"), ("ours, patches", "zennit-crp")):
        if first in runs and second in runs:
            share = shared_share(runs[first][0]["strongest"], runs[second][0]["strongest"])
            print(f"of the strongest images of {first}, {second} has {share:.1%} among its own")


if __name__ == "__main__":
    main()
