"""What stage 1 prints: what it will measure, and what a complete store holds."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from utils.errors import UserError
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.networks.layers import Layer
from utils.networks.loading import LoadedNetwork
from utils.store.importance_store import ImportanceStore

FEWEST_OUTPUTS = 10  # of a network whose accuracy is compared with chance
TIMES_CHANCE = 3
LOW = 0.5  # share of images that are classified correctly, below which it is said what to check
TO_CHECK = (
    "the transform (--resize_size, --crop_size, --mean and --std, as stage 1 prints them), --weights, and which class "
    "folder is which output (--class_map)"
)


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
        print(f"resuming: {present} of {store.num_chunks} chunks are stored")


def print_transform(transform: Transform, model: str, note: str, assumed: Sequence[str]) -> None:
    """Print the transform, what it does not reproduce, and a warning of the flags whose defaults are ``assumed``."""
    print(f"transform: {transform}", flush=True)
    if note:
        print(f"note: {note}; --resize_size and --crop_size change the sizes")
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
        return "no chunk was complete yet: the same command starts from the beginning"
    return f"{kept} of {store.num_chunks} chunks are kept: the same command resumes after them"


def print_store_summary(store: ImportanceStore) -> float:
    """Print what a complete store holds, and what to check where few images are classified correctly.

    Returns the share of images that are classified correctly. UserError if no image could be read.
    """
    labels = store.read_labels()
    total = store.meta["num_images"]
    used = len(labels.indices)
    if used == 0:
        raise UserError(f"none of the {total} images could be read: nothing can be computed from {store.folder}")
    skipped = f", {total - used} unreadable ones left out" if used < total else ""
    correct = (labels.targets == labels.predictions).sum().item() / used
    num_outputs = store.meta["num_outputs"]
    chance = f"chance is {1 / num_outputs:.2%} (1 of {num_outputs} outputs)"
    print(f"{used} images{skipped}; {correct:.1%} classified correctly, {chance}")
    if num_outputs >= FEWEST_OUTPUTS and correct < TIMES_CHANCE / num_outputs:
        print(f"warning: this is hardly better than chance: check {TO_CHECK}", file=sys.stderr)
    elif correct < LOW:
        print(f"that is fewer than half: if this network does better on such images, check {TO_CHECK}")
    return correct


def print_counted(images: torch.Tensor, settings: dict[str, Any]) -> None:
    """Print how many images and classes stage 2 counts, and the accuracy, with what to check where that is low.

    ``images`` [2, T] are the numbers of [all, correctly classified] images of each class; ``settings`` are stage 2's.
    """
    total, correct = images.sum(1).tolist()
    which = "correctly classified images" if settings["only_correct"] else "images"
    counted = images[int(settings["only_correct"])]
    enough = int((counted >= max(1, settings["min_images"])).sum())
    share = correct / total if total else 0.0
    print(
        f"{correct} of {total} images are classified correctly ({share:.1%}); {int(counted.sum())} {which} count, and "
        f"{enough} of {int((images[0] > 0).sum())} classes have at least {max(1, settings['min_images'])} of them"
    )
    if share < LOW:
        print(f"fewer than half are correct: if this network does better on such images, check in stage 1 {TO_CHECK}")


def warn_of_assumed(correct: float, assumed: Sequence[str]) -> None:
    """Repeat, at the end of a run, that parts of the transform are ``assumed`` if few images are classified correctly.

    ``assumed`` are the names of their flags.
    """
    if assumed and correct < LOW:
        print(
            f"warning: {correct:.1%} classified correctly, and {', '.join(assumed)} had their defaults, as the network "
            "carries no transform: delete the store and give those that the network was trained with if they differ",
            file=sys.stderr,
        )
