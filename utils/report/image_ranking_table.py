"""The channels of a layer, and their circuits, ranked by a user's list of images: a CSV file, and a table to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.defaults import IMAGE_SET_DRAWS as DRAWS
from utils.method.significance import p_value
from utils.report.numbers import csv_number, formatted
from utils.report.tables import Table, short_name
from utils.stages.image_ranking import ChannelRanks, CircuitRanks, ListInStore

COLUMNS = ["run", "layer", "images_of", "kind", "channel", "circuit", "name", "training_images", "listed", "images"]
COLUMNS += ["prevalence", "order", "ap", "ap_null", "ap_null_highest", "p", "p_best"]
HIGHEST, LOWEST = "highest first", "lowest first"  # of the spatial sum
HOW_TO_READ = f"""AP: average precision with which the spatial sum ranks the listed images above all others (lowest
first: below all others); by chance it is about the prevalence. Null: the channels' weights permuted over the inputs,
{DRAWS} draws. For a channel: its own draws (mean, highest). For circuits: the best circuit of each draw, among the
channels that are best with permuted weights (mean, highest). p: the channel compared with its own draws, at least
1/{1 + DRAWS}. p of the best: compared with the best channel of the layer, or the best circuit, of each draw, which
accounts for choosing the best."""
IN_TRAINING = """Training images: no weight of a channel is fitted to the list, and no circuit is, but a circuit
is made from the channel's strongest training images, some of which may be listed."""
FREQUENT = "circuit (its frequent classes, not tested)"

OTHER_IMAGES = """
The val store has images with all of these names, too. They are not the images of the train store: use the next tables
only if the list names images below val/."""


@dataclass(frozen=True)
class ImageRanking:
    """What was measured in one store: ``of`` is ``train`` or ``val``; ``channels`` are ranked highest sum first."""

    of: str
    in_store: ListInStore
    channels: ChannelRanks
    lowest_first: ChannelRanks
    circuits: CircuitRanks


def _null_columns(value: float, nulls: Tensor) -> dict[str, float]:
    mean, highest = (nulls.mean().item(), nulls.amax().item()) if len(nulls) else (float("nan"), float("nan"))
    return {"ap": value, "ap_null": mean, "ap_null_highest": highest}


def channel_rows(ranks: ChannelRanks, order: str) -> list[dict[str, Any]]:
    """The row of each channel, the highest average precision first."""
    best_of_nulls = ranks.best_of_nulls
    rows = []
    for channel in ranks.best(len(ranks.values)):
        value = ranks.values[channel].item()
        rows.append(
            {
                **_null_columns(value, ranks.nulls[channel]),
                "kind": "channel",
                "order": order,
                "channel": channel,
                "p": p_value(value, ranks.nulls[channel]),
                "p_best": p_value(value, best_of_nulls),
            }
        )
    return rows


def circuit_rows(ranking: ImageRanking) -> list[dict[str, Any]]:
    """The row of each circuit of the ranked channels, the highest average precision first."""
    ranks = ranking.circuits
    rows = []
    for of_channel, values in zip(ranks.channels, ranks.values, strict=True):
        for k, value in enumerate(values.tolist()):
            rows.append(
                {
                    **_null_columns(value, ranks.best_of_nulls),
                    "kind": "circuit",
                    "order": HIGHEST,
                    "channel": of_channel.channel,
                    "circuit": k + 1,
                    "name": of_channel.names[k],
                    "training_images": of_channel.sizes[k],
                    "p_best": p_value(value, ranks.best_of_nulls),
                }
            )
    return sorted(rows, key=lambda row: -row["ap"])


def write_ranking(path: Path, rankings: Sequence[ImageRanking], run: str, layer: str) -> Path:
    """Write all channels, and the circuits of the best ones, as CSV."""
    rows = []
    for ranking in rankings:
        of_store = {"run": run, "layer": layer, "images_of": ranking.of, "prevalence": ranking.in_store.prevalence}
        of_store |= {"listed": len(ranking.in_store.listed), "images": ranking.in_store.num_images}
        rows += [{**of_store, **row} for row in channel_rows(ranking.channels, HIGHEST)]
        rows += [{**of_store, **row} for row in channel_rows(ranking.lowest_first, LOWEST)]
        rows += [{**of_store, **row} for row in circuit_rows(ranking)]
    cells = [[_cell(row.get(name, "")) for name in COLUMNS] for row in rows]
    Table(COLUMNS, cells).write_csv(path)
    return path


def _cell(value: Any) -> Any:
    return csv_number(value) if isinstance(value, float) else value


def print_rankings(rankings: Sequence[ImageRanking], name: str, number: int) -> None:
    """Print the best ``number`` channels of each ranking, and as many circuits, for the list called ``name``."""
    for number_of_store, ranking in enumerate(rankings):
        if number_of_store == 1:
            print(OTHER_IMAGES)
        _print_channels(ranking, name, number)
        _print_circuits(ranking, number)
    print(HOW_TO_READ)
    if any(ranking.of == "train" for ranking in rankings):
        print(IN_TRAINING)


def _print_channels(ranking: ImageRanking, name: str, number: int) -> None:
    in_store = ranking.in_store
    print(
        f"\n{name}: {len(in_store.listed)} of the {in_store.num_images:,} images of {in_store.store.folder} "
        f"(prevalence {in_store.prevalence:.4f}), {len(ranking.channels.values):,} channels"
    )
    for order, ranks in ((HIGHEST, ranking.channels), (LOWEST, ranking.lowest_first)):
        header = ["channel", f"AP, {order}", "null", "highest", "p", "p of the best"]
        names = ["ap", "ap_null", "ap_null_highest", "p", "p_best"]
        rows = channel_rows(ranks, order)[:number]
        cells = [[row["channel"], *(formatted(row[name], ".3f") for name in names)] for row in rows]
        print(f"{Table(header, cells).as_markdown(right_aligned=True)}\n")


def _print_circuits(ranking: ImageRanking, number: int) -> None:
    circuits = circuit_rows(ranking)
    if circuits:
        draws = len(ranking.circuits.best_of_nulls)
        fewer = "" if draws == DRAWS else f"; only {draws} of {DRAWS} draws of the null have circuits"
        shown = f"{len(circuits)}; the best {min(number, len(circuits))}"
        print(f"circuits of the channels that are highest ({shown}{fewer})")
        header = ["channel", FREQUENT, "training images", "AP", "null: mean of best", "highest", "p of the best"]
        names = ["ap", "ap_null", "ap_null_highest", "p_best"]
        cells = [
            [
                row["channel"],
                short_name(row["name"]),
                row["training_images"],
                *(formatted(row[n], ".3f") for n in names),
            ]
            for row in circuits[:number]
        ]
        print(Table(header, cells).as_markdown())
    else:
        print("none of these channels has circuits: there are too few distinct training images")
