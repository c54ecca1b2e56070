"""Settings of each stage, for scripts and for Python (``utils.entries``).

A field is named after its flag, and has the flag's default and range: a number out of it is a UserError.
``flags.settings_of`` makes settings from flags; only ``command_line/`` reads argparse's namespace.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from utils import defaults
from utils.command_line.ranges import check_given, check_ranges
from utils.concept_sources.source_registry import SOURCES
from utils.concept_sources.source_registry import USUAL as USUAL_SOURCE
from utils.divisions.division_registry import DIVISIONS, usual_with
from utils.errors import UserError
from utils.networks.model_names import model_name
from utils.processes import default_workers
from utils.report.sheets import SCREEN, Sheet


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of every stage: which layer of which network, and where everything is."""

    model: str = ""  # empty only for get_results.py --summary
    weights: str | None = None
    layer_of_interest: str = defaults.LAYER
    nr_channels_in_layer_of_interest: int | None = None
    data_dir: str = defaults.DATA_DIR
    store_dir: str = defaults.STORE_DIR
    output_dir: str = defaults.OUTPUT_DIR

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def model_name(self) -> str:
        """The name by which stores and results know the model: a factory's file may be called by any path."""
        return model_name(self.model)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(StageSettings):
    """How images are read and how the network runs. Parts of the transform are None if no flag gives them."""

    resize_size: int | None = None
    crop_size: int | None = None
    interpolation: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    skip_unreadable: bool = False
    batch_size: int = defaults.BATCH_SIZE
    num_workers: int = field(default_factory=default_workers)
    decode: str = defaults.DECODER
    device: str | None = None
    precision: str = defaults.PRECISION


@dataclass(frozen=True, kw_only=True)
class ImportanceSettings(ImageSettings):
    """Stage 1. ``chunk_size`` is None if no flag gives it: a store keeps its own, a new one depends on the images."""

    images: str = "train"
    class_map: str | None = None
    chunk_size: int | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings(StageSettings):
    """Stage 2. ``taus``, ``ps`` and ``cos_sim_highs`` have one value each, or several.

    ``tau``, ``p`` and ``cos_sim_high`` are the first values.
    """

    taus: tuple[float, ...] = (defaults.TAU,)
    ps: tuple[float, ...] = (defaults.P,)
    cos_sim_highs: tuple[float, ...] = (defaults.COS_SIM_HIGH,)
    cos_sim_low: float = defaults.COS_SIM_LOW
    only_correct: bool = defaults.ONLY_CORRECT
    only_above_mean: bool = False
    min_images: int = defaults.MIN_IMAGES
    figure_width: Sheet = SCREEN
    channel: int | None = None
    top: int | None = None
    plot_wordnet: bool = False

    @property
    def tau(self) -> float:
        return self.taus[0]

    @property
    def p(self) -> float:
        return self.ps[0]

    @property
    def cos_sim_high(self) -> float:
        return self.cos_sim_highs[0]


@dataclass(frozen=True, kw_only=True)
class CandidateSettings(ImageSettings):
    """Settings of stages 3 and 4: which channels and concepts.

    ``channels`` are those of ``channel_flag``, or None. ``concepts`` are the classes of each concept that flags name,
    as text. ``only_correct``, tau (``proportion_attribution_required``) and ``p`` are None if no flag gives them.
    """

    channel_flag: ClassVar[str]

    candidates: str | Path | None = None
    channels: tuple[int, ...] | None = None
    concepts: tuple[list[str], ...] = ()
    proportion_attribution_required: float | None = None
    p: float | None = None
    only_correct: bool | None = None

    @property
    def finds_concepts(self) -> bool:
        """Whether the concepts are found in the images of a channel, and not given."""
        return False

    @property
    def names_concepts_by_lists(self) -> bool:
        """Whether concepts are lists of images, which any channel can be split by."""
        return False


@dataclass(frozen=True, kw_only=True)
class DisentanglingSettings(CandidateSettings):
    """Stage 3. ``division_given`` and ``source_given`` are the values of the plug-ins' flags, {setting: value}.

    ``split_by`` and ``background`` are None if no flag gives them: ``division_name`` and ``weight_of_background`` are
    then the usual ones.
    """

    channel_flag = "channel_disentangle"

    split_by: str | None = None
    division_given: dict[str, Any] = field(default_factory=dict)
    concepts_from: str = USUAL_SOURCE
    source_given: dict[str, Any] = field(default_factory=dict)
    background: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        division = DIVISIONS.get(self.division_name)
        check_given("division_given", self.division_given, [division])
        check_given("source_given", self.source_given, [SOURCES.get(self.concepts_from)])
        if not division.weighs_background and self.weight_of_background not in (None, 1):
            weighing = " and ".join(way.name for way in DIVISIONS.all() if way.weighs_background)
            raise UserError(f"--background {self.weight_of_background:g}: only --split_by {weighing} uses a weight")

    @property
    def finds_concepts(self) -> bool:
        """Whether the source finds the concepts in the images of a channel."""
        return not SOURCES.get(self.concepts_from).is_named()

    @property
    def names_concepts_by_lists(self) -> bool:
        return bool(SOURCES.get(self.concepts_from).concept_flag)

    @property
    def division_name(self) -> str:
        """The name of the way of dividing inputs."""
        return self.split_by or usual_with(labels=SOURCES.get(self.concepts_from).labelled)

    @property
    def weight_of_background(self) -> float | None:
        """The weight of the background concept, or None without one."""
        usual = SOURCES.get(self.concepts_from).background_with(DIVISIONS.get(self.division_name))
        return (usual if self.background is None else self.background) or None


@dataclass(frozen=True, kw_only=True)
class ResultSettings(CandidateSettings):
    """Stage 4. ``division_given`` are the values of the divisions' flags, which choose among splits."""

    channel_flag = "channel_of_interest"

    splits: tuple[str | Path, ...] = ()
    model_dir: str | None = None
    split_by: str | None = None
    division_given: dict[str, Any] = field(default_factory=dict)
    background: float | None = None
    rho: float | None = None
    figure_width: Sheet = SCREEN

    get_qualitative: bool = False
    get_quantitative: bool = False
    get_channel_card: bool = False
    get_feature_visualization: bool = False
    get_map: bool = False
    get_separation: bool = False
    get_effect: bool = False
    get_edit: bool = False
    compare: bool = False
    rank_by_images: str | Path | None = None
    summary: bool = False
    report: bool = False

    patches_of: str | None = None
    patches: str = defaults.PATCHES
    patch_size: int | None = None
    steps: int = defaults.VISUALIZATION_STEPS
    seeds: int = defaults.VISUALIZATION_SEEDS
    draws: int = defaults.SEPARATION_MOST_DRAWS
    irrelevant_channels: int | str | None = None
    effect_to: str = defaults.EFFECT_TO
    top: int = defaults.RANKED_CHANNELS
    write_edited: str | None = None
    edit_concepts: tuple[str, ...] = ()
    edit_factor: float = defaults.EDIT_FACTOR
    edit_to: str | float = defaults.EFFECT_TO
    with_pure: bool = False
    compare_without: tuple[str, ...] = ()
    max_channels: int = defaults.COMPARISON_CHANNELS
    nr_concepts: int | None = None
    nr_reference_images: int | None = None
    sae_trainer: str | None = None
    embedding: str | None = None
    embedding_mean: list[float] | None = None
    embedding_std: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_given("division_given", self.division_given, DIVISIONS.all())

    @property
    def is_summary_alone(self) -> bool:
        """Whether stage 4 only summarises stored results."""
        return self.summary and self.channels is None and self.candidates is None and not self.splits

    @property
    def wants_pictures(self) -> bool:
        """Whether stage 4 makes pictures, which need the images and the layer's input."""
        return self.get_channel_card or self.get_feature_visualization

    @property
    def wants_figures(self) -> bool:
        """Whether stage 4 draws figures that can be made for a paper."""
        return self.get_separation or self.get_edit or self.get_qualitative or self.wants_pictures

    @property
    def wants_each_split(self) -> bool:
        """Whether stage 4 makes results of single splits, from images of their concepts."""
        return self.get_qualitative or self.get_quantitative or self.wants_pictures

    def with_usual_results(self) -> "ResultSettings":
        """These settings, with densities and fractions if no result of splits is asked for."""
        of_splits = self.get_separation or self.wants_logits or self.get_map or self.write_edited
        if of_splits or self.wants_each_split:
            return self
        return replace(self, get_qualitative=True, get_quantitative=True)

    @property
    def wants_network(self) -> bool:
        """Whether stage 4 makes results that need the network and images even if there is a val store."""
        return self.wants_pictures or self.wants_logits

    @property
    def wants_logits(self) -> bool:
        """Whether stage 4 makes results that need what comes after the layer."""
        return self.get_effect or self.get_edit


def model_dir_of(settings: ResultSettings) -> Path:
    """The folder of the splits: by --model_dir, or that of the files of --splits, or the store's.

    Results are compared with the split of their name there: files of --splits that lie elsewhere are refused.
    """
    folders = {path.parent.resolve(): path.parent for path in map(Path, settings.splits or ())}
    if settings.model_dir is None and not folders:
        return Path(settings.store_dir) / defaults.MODEL_DIR
    model_dir = Path(settings.model_dir) if settings.model_dir is not None else next(iter(folders.values()))
    elsewhere = [folder for resolved, folder in folders.items() if resolved != model_dir.resolve()]
    if elsewhere:
        several = "--splits names files of several folders"
        problem = several if settings.model_dir is None else "--splits is not in --model_dir"
        raise UserError(f"{problem}, {model_dir} and {elsewhere[0]}: results are stored for one folder at a time")
    return model_dir
