"""What stage 1 prints: what it will measure, and what a complete store holds."""

import sys
from collections.abc import Sequence

import torch

from utils.errors import UserError
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.networks.layers import Layer
from utils.networks.loading import LoadedNetwork
from utils.store.importance_store import ImportanceStore

FEWEST_OUTPUTS = 10  # of a network whose accuracy is compared with chance
TIMES_CHANCE = 3


def print_plan(
    store: ImportanceStore,
    model: str,
    images: ImageList,
    *,
    network: LoadedNetwork,
    layer: Layer,
    device: torch.device,
    precision: str,
    num_processes: int,
) -> None:
    """Print what will be computed, and which part of it exists already."""
    print(f"{model} with weights {network.weights}; layer of interest: {layer.name}")
    if layer.note:
        print(f"note: {layer.note}")
    shared = f", shared by {num_processes} processes" if num_processes > 1 else ""
    print(f"{len(images)} images of {len(images.folders)} classes on {device}, {precision}{shared}")
    present = store.num_chunks - len(store.missing_chunks())
    if present:
        print(f"going on: {present} of {store.num_chunks} chunks are there")


def print_transform(transform: Transform, model: str, assumed: Sequence[str]) -> None:
    """Print the transform, and warn of its parts that nothing says, given by the names of their flags."""
    print(f"transform: {transform}", flush=True)
    if assumed:
        print(
            f"warning: {model} carries no transform, so the defaults of {', '.join(assumed)} are used: give those that "
            "the network was trained with",
            file=sys.stderr,
        )


def kept_chunks(store: ImportanceStore) -> str:
    """What a run that is interrupted leaves behind, and what the same command does."""
    kept = store.num_chunks - len(store.missing_chunks())
    if not kept:
        return "no chunk was complete yet, the same command begins again"
    return f"{kept} of {store.num_chunks} chunks are kept, the same command goes on from there"


def print_store_summary(store: ImportanceStore) -> None:
    """Print what a complete store holds; UserError if no image could be read."""
    labels = store.read_labels()
    total = store.meta["num_images"]
    used = len(labels.indices)
    if used == 0:
        raise UserError(f"none of the {total} images could be read: nothing can be computed from {store.folder}")
    skipped = f", {total - used} unreadable ones left out" if used < total else ""
    correct = (labels.targets == labels.predictions).sum().item() / used
    print(f"{used} images{skipped}; {correct:.1%} classified correctly")
    _warn_of_chance(correct, store.meta["num_outputs"])


def _warn_of_chance(correct: float, num_outputs: int) -> None:
    """Warn that the images are classified hardly better than by chance, and print possible reasons."""
    if num_outputs >= FEWEST_OUTPUTS and correct < TIMES_CHANCE / num_outputs:
        print(
            f"warning: that is hardly better than chance ({1 / num_outputs:.2%}): class folders may be mapped to the "
            "wrong outputs (--class_map), or --weights, --mean or --std may not be those of this network",
            file=sys.stderr,
        )
