"""Stage 4, split by split: fractions of the original channel that the new ones carry, and figures of them."""

from pathlib import Path

from tqdm import tqdm

from utils.command_line.image_sets import open_nulls, show_names
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import OpenedSplits
from utils.errors import UserError
from utils.processes import progress
from utils.report.image_set_text import scores_of
from utils.report.name_text import texts_of
from utils.report.result_files import print_results, warn_of_empty_inclusion, write_tables
from utils.report.split_figures import FigureMaker, FigureWishes
from utils.stages.image_set_nulls import ImageSetScores
from utils.stages.split_measures import describe_result, evaluate, result_of
from utils.stages.validation import ImagePass, StoredValidation
from utils.store.results import Results


def evaluate_each(opened: OpenedSplits, validation: ImagePass | StoredValidation, results: Results) -> list[Path]:
    """Measure fractions and draw figures of each split; returns the paths of the files written."""
    settings = opened.settings
    described = []
    splits_at_tau = list(zip(opened.splits, opened.taus, strict=True))
    for split, tau in progress(splits_at_tau, "describing splits", unit=" splits", delay=2, leave=False):
        described.append(describe_result(split, opened.run, tau, validation))
    scores = _scores_of(opened)
    # the maps have written and printed the names already
    written = [] if settings.get_map else show_names(settings, opened.splits, scores)
    for split, tau in splits_at_tau:
        print(f"{split.path.name}, {split.which_rho()}tau {tau}")
    figures = FigureMaker(
        figure_wishes(settings),
        validation,
        opened.splits,
        opened.transform,
        kept_patches=opened.kept_patches,
        scores=scores,
    )
    shown = []
    stored = []
    evaluated = evaluate(opened.splits, described, validation, results, settings.get_channel_card)
    for number, result, arrays in evaluated:
        split = opened.splits[number]
        with opened.problems.noted(split.path.name), tqdm.external_write_mode():
            if result is None:
                assert arrays is not None
                result = result_of(described[number], arrays, split, validation)
                if settings.get_quantitative:
                    results.write(result)
            else:
                stored.append(result)
            warn_of_empty_inclusion(result)
            written += figures.draw(number, result, arrays)
            shown.append(result)
    if not shown:
        opened.problems.finish("evaluated")
    if settings.get_quantitative:
        results.make_newest(stored)
        tables = write_tables(results)
        called = {
            split.path.stem: texts_of([concept.name for concept in split.file.split.own_concepts], of_split)
            for split in opened.splits
            if (of_split := scores.get(split.path)) is not None
        }
        print_results(results, tables, shown, called)
        written = tables.paths + written
    return written


def _scores_of(opened: OpenedSplits) -> dict[Path, ImageSetScores | None]:
    """The scores of the splits without labels beside permuted weights, by path; without cards those that are kept.

    Empty, with a message, where the stores cannot be read.
    """
    try:
        nulls = open_nulls(
            opened.settings,
            opened.splits,
            opened.matching_val_store(),
            lambda: opened.open_study(opened.open_training()),
            measured=opened.settings.get_channel_card,
        )
    except UserError as error:
        print(f"concepts without labels are not compared with permuted weights: {error}")
        return {}
    splits = progress(opened.splits, "permuted weights", unit=" splits", delay=2, leave=False)
    return {} if nulls is None else {split.path: scores_of(nulls, split) for split in splits}


def figure_wishes(settings: ResultSettings) -> FigureWishes:
    """The FigureWishes of stage 4."""
    return FigureWishes(
        output_dir=settings.output_dir,
        qualitative=settings.get_qualitative,
        channel_card=settings.get_channel_card,
        feature_visualization=settings.get_feature_visualization,
        patches=settings.patches,
        patch_size=settings.patch_size,
        steps=settings.steps,
        seeds=settings.seeds,
        sheet=settings.figure_width,
    )
