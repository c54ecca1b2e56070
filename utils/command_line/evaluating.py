"""Stage 4, split by split: fractions of the original channel that the new ones carry, and figures of them."""

from tqdm import tqdm

from utils.command_line.opening import setting
from utils.report.result_files import print_results, warn_of_empty_inclusion, write_tables
from utils.report.split_figures import FigureMaker, FigureWishes
from utils.stages.split_measures import describe_result, evaluate, result_of
from utils.store.files import run_name


def evaluate_each(settings, opened, stage_two, problems, source, transform, results):
    """Fractions and figures of each split: paths of what was written.

    Parameters
    ----------
    settings : ResultSettings
    opened : list of OpenedSplit
    stage_two : dict
        Settings of stage 2, where the candidates say them.
    problems : Problems
    source : ImagePass or StoredValidation
    transform : Transform
    results : Results
    """
    run = run_name(settings.model, settings.layer_of_interest)
    taus = [setting("tau", settings, stage_two, one.file.settings) for one in opened]
    known = [describe_result(one, run, tau, source) for one, tau in zip(opened, taus, strict=True)]
    for one, tau in zip(opened, taus, strict=True):
        print(f"{one.path.name}, {one.which_rho()}tau {tau}")
    figures, found, written = FigureMaker(figure_wishes(settings), source, opened, transform), [], []
    for number, result, arrays in evaluate(opened, known, source, results, settings.get_channel_card):
        with problems.noted(opened[number].path.name), tqdm.external_write_mode():
            if result is None:
                result = result_of(known[number], arrays, opened[number], source)
                if settings.get_quantitative:
                    results.write(result)
            elif settings.get_quantitative:
                results.make_newest(result)
            warn_of_empty_inclusion(result)
            written += figures.draw(number, result, arrays)
            found.append(result)
    if not found:
        problems.finish("evaluated")
    if settings.get_quantitative:
        tables, paths = write_tables(results)
        print_results(results, tables, found)
        written = paths + written
    return written


def figure_wishes(settings):
    """The FigureWishes of stage 4."""
    return FigureWishes(
        output_dir=settings.output_dir,
        qualitative=settings.get_qualitative,
        channel_card=settings.get_channel_card,
        feature_visualization=settings.get_feature_visualization,
        all_classes=settings.all_classes,
        patches=settings.patches,
        patch_size=settings.patch_size,
        steps=settings.steps,
        seeds=settings.seeds,
        sheet=settings.figure_width,
    )
