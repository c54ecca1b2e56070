"""Stage 4: tables and figures of splits."""

from pathlib import Path

from utils.command_line.run import print_end
from utils.command_line.settings import ResultSettings, model_dir_of
from utils.report.all_summaries import summarise_all
from utils.store.results import Results


def evaluate(settings: ResultSettings) -> list[Path]:
    """Measure splits on validation images, and write tables, figures or the page that the settings name.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    UserError
        A split could not be evaluated; results of the others are stored.
    """
    # Tables and pages of stored results
    results = Results(settings.output_dir, model_dir_of(settings))
    if settings.is_summary_alone:
        paths = summarise_all(results)
        print_end(paths, [])
        return paths
    from utils.command_line import split_opening  # a summary does not wait for what the others import
    from utils.command_line.comparing import measure_comparison
    from utils.command_line.editing import print_loading_lines, write_edited
    from utils.command_line.evaluating import evaluate_each
    from utils.command_line.mapping import draw_maps
    from utils.command_line.measuring_edits import measure_edits
    from utils.command_line.measuring_effects import measure_effect
    from utils.command_line.next_steps import after_results
    from utils.command_line.ranking_images import rank_by_images
    from utils.command_line.reporting import make_report
    from utils.command_line.separating import measure_separation
    from utils.networks.precision import check_precision, choose_device

    if settings.report:
        return [make_report(settings)]
    if settings.rank_by_images is not None:
        return rank_by_images(settings)

    # Results that need the stores, and some also the network and images
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    if settings.compare:
        return measure_comparison(settings, device)
    settings = settings.with_usual_results()
    opened = split_opening.open_splits(settings, device)
    results.check(opened.run, opened.context["weights_sha256"])
    written: list[Path] = []
    if settings.get_separation:
        written += measure_separation(opened)
    if settings.get_map:
        written += draw_maps(opened)
    if settings.write_edited:
        written += write_edited(opened)
    if settings.wants_logits or settings.wants_each_split:
        opened, validation = split_opening.open_validation(opened)
        network = f"{settings.model_name} with weights {opened.context['weights']}"
        print(f"{network}, layer {opened.context['layer']}; {validation}")
        if settings.get_effect:
            written += measure_effect(opened, validation)
        if settings.get_edit:
            written += measure_edits(opened, validation)
        if settings.wants_each_split:
            written += evaluate_each(opened, validation, results)
    if settings.summary:
        written = list(dict.fromkeys(written + summarise_all(results)))
    print_end(written, after_results(opened))
    if settings.write_edited:
        print_loading_lines(settings)
    opened.problems.finish("evaluated")
    return written
