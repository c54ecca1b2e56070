"""Stage 4's ranking of channels, and of their circuits, by a user's list of images: from the stores alone."""

from functools import partial
from pathlib import Path

import torch

from utils.command_line.commands import STAGE3, Command, next_command
from utils.command_line.opening import (
    check_channel_count,
    open_network,
    open_study,
    open_transform,
    require_stored_network,
)
from utils.command_line.run import print_end
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import matching_val_store
from utils.concept_sources.source_registry import SUGGESTED
from utils.defaults import BACKGROUND_WEIGHT
from utils.errors import UserError
from utils.report.image_ranking_table import ImageRanking, print_rankings, write_ranking
from utils.stages.image_ranking import ListInStore, find_circuits, rank_channels, rank_circuits
from utils.store.files import json_digest, number_text, run_name
from utils.store.image_lists import ListedImages, read_image_list
from utils.store.importance_store import ImportanceStore
from utils.store.study import Study
from utils.store.unfinished import Unfinished

FLAG = "--rank_by_images"
LEAST_IMAGES = 5
LONGEST_STEM = 60  # characters of the list's name in the name of the file


def rank_by_images(settings: ResultSettings) -> list[Path]:
    """Rank all channels, and circuits of the best, by how they tell the listed images from all others.

    Returns the paths of the files that were written.
    """
    assert settings.rank_by_images is not None
    listed = read_image_list(settings.rank_by_images, FLAG, LEAST_IMAGES)
    training = _open_training(settings)
    study = _open_study(settings, training)
    validation = matching_val_store(settings, study.run, training.meta)
    stores = _stores_of(listed, training, validation)
    name = f"{study.run}_rank_by_images_{listed.stem[:LONGEST_STEM]}_{listed.digest()[:12]}.csv"
    path = Path(settings.output_dir) / "results_quantitative" / name
    rankings = [_rank_in(of, store, listed, study, path=path, number=settings.top) for of, store in stores.items()]
    print_rankings(rankings, listed.name, settings.top)
    written = [write_ranking(path, rankings, study.run, training.meta["layer"])]
    print_end(written, [_next(settings, rankings[0])])
    return written


def _open_training(settings: ResultSettings) -> ImportanceStore:
    """The complete training store; UserError if it is another network's than the settings say."""
    training = ImportanceStore(settings.store_dir, run_name(settings.model, settings.layer_of_interest))
    meta = training.load_meta()
    training.require_complete()
    check_channel_count(settings, meta)
    if settings.weights is not None:
        require_stored_network(settings, meta, training.folder)
    return training


def _rank_in(
    of: str, store: ImportanceStore, listed: ListedImages, study: Study, *, path: Path, number: int
) -> ImageRanking:
    """The ranking in one store, ``of`` train or val; a stopped pass is kept beside ``path``, the file of results."""
    in_store = ListInStore.of(listed, store, study.labels if of == "train" else store.read_labels())
    kept = Unfinished(path, {"store": json_digest(store.meta), "list": listed.digest(), "run": study.run})
    highest_first, lowest_first = rank_channels(in_store, kept)
    circuits = rank_circuits(find_circuits(study, highest_first.best_units(number)), in_store)
    kept.remove()
    return ImageRanking(of, in_store, highest_first, lowest_first, circuits)


def _open_study(settings: ResultSettings, training: ImportanceStore) -> Study:
    """The Study of all training images, beside a background; no network and no images are needed."""
    device = torch.device("cpu")
    return open_study(
        settings,
        training,
        open_transform(settings, training.meta, training.folder),
        device,
        open_network=partial(open_network, settings, training.meta, training.folder, device),
        only_correct=False,
        background=BACKGROUND_WEIGHT,
    )


def _stores_of(
    listed: ListedImages, training: ImportanceStore, validation: ImportanceStore | None
) -> dict[str, ImportanceStore]:
    """The stores that have all listed images; UserError if none has."""
    stores = {"train": training} | ({} if validation is None else {"val": validation})
    images = {of: store.read_images(store.meta["images"]) for of, store in stores.items()}
    missing = {of: listed.missing_from(images[of]) for of in stores}
    matching = {of: store for of, store in stores.items() if not len(missing[of])}
    if not matching:
        closest = min(stores, key=lambda of: len(missing[of]))
        where = f"that {stores[closest].folder} does not have"
        others = [f"{of} lacks {len(missing[of])}" for of in stores if of != closest]
        others += ["there is no val store that matches"] if validation is None else []
        raise UserError("; ".join([listed.lacking(missing[closest], where, images[closest]), *others]))
    return matching


def _next(settings: ResultSettings, ranking: ImageRanking) -> Command:
    """Stage 3: split the best channel by the list, or, if this is of validation images, by circuits."""
    channel = ranking.channels.best(1)[0]
    words: list[object] = ["--channel_disentangle", channel]
    if ranking.of == "train":
        words += ["--images_for_concept1", settings.rank_by_images, "--background", number_text(BACKGROUND_WEIGHT)]
    else:
        words += ["--concepts_from", SUGGESTED]
    return "next", next_command(STAGE3, *words, settings=settings)
