"""The steps: every stage and everything that stage 4 makes, with the bounds that they have to keep."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.full_size.network import EMBEDDER, MODEL
from utils.defaults import GAMMA, LAYER, SEPARATION_DRAWS, TAU, P
from utils.store.files import run_name

STAGE1, STAGE2 = "get_importances_for_classes.py", "get_cosine_similarities.py"
STAGE3, STAGE4 = "disentangle_channel.py", "get_results.py"
MINUTE = 60
MOST_MEMORY = 4e9  # bytes of all processes of a step, whatever the fraction
LONGEST_SILENCE = 5  # seconds without output, of a program that has a processor for itself
LONGEST_START = 10  # seconds until the first output, in which libraries are imported
FEW_CHANNELS = 5  # for steps that take seconds for each channel
COMPARED_CHANNELS = 100


@dataclass(frozen=True)
class Folder:
    """Where the benchmark keeps its data, the store and the results."""

    root: Path
    model: str = MODEL

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def tables(self) -> Path:
        """Stage 2's files, without what follows their common name."""
        name = f"{run_name(self.model, LAYER)}_required{TAU}_p{P}_cossim0.0to{GAMMA}"
        return self.results / "results_get_cosine_similarities" / name

    @property
    def pairs(self) -> Path:
        return self.tables.with_name(f"{self.tables.name}.json")

    @property
    def groups(self) -> Path:
        return self.tables.with_name(f"{self.tables.name}_groups.json")

    @property
    def manifest(self) -> Path:
        """The manifest of the groups' splits."""
        name = f"{self.tables.name}_groups_least_squares_background_layer.json"
        return self.store / "models_disentangled" / name

    def channels(self, number: int) -> list[str]:
        """The first channels of several groups."""
        candidates = json.loads(self.groups.read_text())["candidates"]
        return [str(candidate["channel"]) for candidate in candidates[:number]]


@dataclass(frozen=True)
class Step:
    """A command of the benchmark, and what it may need.

    Parameters
    ----------
    name
        Name of the step.
    script
        The script of the project that it runs.
    flags
        Its flags, except those of the network, the images, the store and the results.
    seconds
        The most CPU time of its first process, with all of ImageNet; None if only memory and silence are bounded.
    of_images
        The share of ``seconds`` that grows with the number of images.
    removes
        Makes a list of files to remove before it begins.
    of_results
        Whether it reads only results, and takes no flags of network, images and store.
    """

    name: str
    script: str
    flags: Callable[[Folder], list]
    seconds: float | None = None
    of_images: float = 0.0
    removes: Callable[[Folder], list[Path]] = lambda folder: []
    of_results: bool = False

    def bound(self, fraction: float) -> float | None:
        """The most CPU seconds of its first process with a fraction of ImageNet's images."""
        return None if self.seconds is None else self.seconds * (1 - self.of_images * (1 - fraction))

    def command(self, folder: Folder) -> list:
        """The script and all its flags."""
        flags = [] if self.script in (STAGE1, STAGE3) else ["--output_dir", folder.results]
        if not self.of_results:
            flags += ["--model", folder.model, "--store_dir", folder.store]
            flags += [] if self.script == STAGE2 else ["--data_dir", folder.data, "--batch_size", 256]
        return [self.script, *flags, *self.flags(folder)]


def _stage1(folder: Folder) -> list:
    return ["--resize_size", 16, "--crop_size", 16]


def _stage2(folder: Folder) -> list:
    return ["--cos_sim_high", GAMMA]


def _pairs(folder: Folder) -> list:
    return ["--candidates", folder.pairs, "--split_by", "arv"]


def _groups(folder: Folder) -> list:
    return ["--candidates", folder.groups, "--split_by", "least_squares"]


def _few_groups(folder: Folder) -> list:
    return [*_groups(folder), "--channel_of_interest", *folder.channels(FEW_CHANNELS)]


def _visualization(folder: Folder) -> list:
    return [*_few_groups(folder), "--get_feature_visualization", "--steps", 20]


def _comparison(folder: Folder) -> list:
    return ["--compare", "--candidates", folder.groups]


STEPS = [
    Step("stage 1, train", STAGE1, _stage1),
    Step("stage 1, val", STAGE1, lambda folder: [*_stage1(folder), "--images", "val"]),
    Step("stage 2", STAGE2, _stage2),
    Step("stage 2 again", STAGE2, _stage2),
    Step("splits of pairs", STAGE3, _pairs),
    Step("splits of groups", STAGE3, _groups),
    Step("proof of groups", STAGE3, _groups, 1 * MINUTE, removes=lambda folder: [folder.manifest]),
    Step(
        "circuits of all channels",
        STAGE3,
        lambda folder: ["--concepts_from", "circuits", "--split_by", "least_squares"],
        20 * MINUTE,
        of_images=1 / 4,
    ),
    Step(
        "pure, few channels",
        STAGE3,
        lambda folder: ["--concepts_from", "pure", "--channel_disentangle", *folder.channels(FEW_CHANNELS)],
    ),
    Step("quantitative", STAGE4, lambda folder: [*_pairs(folder), "--get_quantitative"]),
    Step("summary", STAGE4, lambda folder: ["--summary"], of_results=True),
    Step("cards and plots", STAGE4, lambda folder: [*_few_groups(folder), "--get_qualitative", "--get_channel_card"]),
    Step("feature visualization", STAGE4, _visualization),
    Step("maps", STAGE4, lambda folder: [*_few_groups(folder), "--get_map"]),
    Step(
        "separation by the rule",
        STAGE4,
        lambda folder: [*_pairs(folder), "--get_separation", "--draws", SEPARATION_DRAWS],
        20 * MINUTE,
        of_images=1 / 2,
    ),
    Step(
        "separation by least squares",
        STAGE4,
        lambda folder: ["--splits", folder.manifest, "--get_separation", "--draws", SEPARATION_DRAWS],
        20 * MINUTE,
        of_images=1 / 2,
    ),
    Step("separation with all draws, few channels", STAGE4, lambda folder: [*_few_groups(folder), "--get_separation"]),
    Step("effect", STAGE4, lambda folder: [*_few_groups(folder), "--get_effect"]),
    Step(
        "comparison",
        STAGE4,
        lambda folder: [*_comparison(folder), "--compare_without", "pure", "--max_channels", COMPARED_CHANNELS],
        15 * MINUTE,
        of_images=1 / 2,
    ),
    Step(
        "comparison with PURE",
        STAGE4,
        lambda folder: [*_comparison(folder), "--max_channels", FEW_CHANNELS],
    ),
    Step(
        "comparison with an embedding",
        STAGE4,
        lambda folder: [
            *_comparison(folder),
            *("--compare_without", "pure", "--max_channels", FEW_CHANNELS, "--embedding", EMBEDDER),
        ],
    ),
    Step("report", STAGE4, lambda folder: ["--report"]),
]
