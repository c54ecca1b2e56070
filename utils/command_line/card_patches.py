"""Which validation images the patches of channel cards are from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.command_line.commands import STAGE4, next_command
from utils.defaults import MOST_PATCH_IMAGES, PATCHES, VISUALIZATION_SEEDS, VISUALIZATION_STEPS
from utils.images.folders import ClassMap, ImageList
from utils.report.page_writer import patches_path, report_folder
from utils.report.split_figures import units_of_splits
from utils.stages.strongest_patches import KeptPatches
from utils.stages.validation import list_all_validation

if TYPE_CHECKING:
    from utils.command_line.split_opening import OpenedSplits


def patches_of_all(opened: OpenedSplits, measured: ImageList | None) -> KeptPatches | None:
    """The file of the strongest patches of all of ``val/``, shared with reports; None if cards show those of concepts.

    ``measured`` is the image list of a val store if splits have indices in it: it is searched, as ``val/`` may have
    changed since.

    Without ``--patches_of`` cards show all of ``val/`` where that takes little: where the patches of all their channels
    are in the file, or there are few images. Otherwise the command for all is printed.
    """
    settings = opened.settings
    if settings.patches_of == "classes":
        return None
    root = Path(settings.data_dir) / "val"
    images = list_all_validation(root, ClassMap(opened.context["classes"])) if measured is None else measured
    kept = KeptPatches.of(
        patches_path(report_folder(settings.output_dir, opened.run)),
        images,
        opened.context,
        precision=settings.precision,
        decoding=settings.decode,
    )
    if settings.patches_of == "all" or len(images) <= MOST_PATCH_IMAGES or kept.has(*units_of_splits(opened.splits)):
        return kept
    words: list[object] = ["--splits", *(settings.splits or [split.path for split in opened.splits])]
    words += ["--get_channel_card", "--patches_of", "all"]
    if settings.get_feature_visualization:  # its pictures are on the card
        words += ["--get_feature_visualization"]
        words += [] if settings.steps == VISUALIZATION_STEPS else ["--steps", settings.steps]
        words += [] if settings.seeds == VISUALIZATION_SEEDS else ["--seeds", settings.seeds]
    of_card = {
        "rho": settings.rho,
        "patches": None if settings.patches == PATCHES else settings.patches,
        "patch_size": settings.patch_size,
        "figure_width": settings.figure_width.name,
    }
    for name, value in of_card.items():
        words += [] if value is None else [f"--{name}", value]
    known = {**opened.splits[0].file.settings, **opened.stage_two}
    command = next_command(STAGE4, *words, settings=settings, known=known)
    print(f"cards show patches of the concepts' images; for those of all {len(images)} validation images: {command}")
    return None
