"""Stage 3: which training images are read for the concepts of its candidates, and the pass over them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import torch

from utils.divisions.division import Divider
from utils.images.batches import ImageSource, PlannedBatch, batches_by_group
from utils.method.disentangling import Candidate, GroupKey, HasKeys, in_order
from utils.processes import progress
from utils.store.importance_store import Labels

HavingKeys = TypeVar("HavingKeys", bound=HasKeys)
PROOF_IMAGES = 4  # of each class; of an image set one, or the square where a split has no other images
MOST_SHOWN = 4000  # images on which the splits of a run are compared with the original, one by one
MOST_AT_ONCE = 1000  # images on which all of them at once are
EARLY = 3  # the larger, the sooner a candidate that has been begun is finished


def members_of(candidates: list[Candidate], labels: Labels, only_correct: bool) -> dict[GroupKey, torch.Tensor]:
    """Training images of all groups of images, as used in stage 1: {key: LongTensor of indices}, in order.

    ``only_correct`` selects images of classes; image sets are used whole.
    """
    sets = {
        key: torch.tensor(concept.images)
        for candidate in candidates
        for keys, concept in zip(candidate.groups, candidate.own_concepts, strict=True)
        for key in keys
        if concept.kind == "images"
    }
    keys = in_order(chain.from_iterable(candidate.keys for candidate in candidates))
    of_class = {} if len(sets) == len(keys) else _images_of_classes(labels, only_correct)
    return {key: sets[key] if key in sets else of_class.get(key, labels.indices[:0]) for key in keys}


def _images_of_classes(labels: Labels, only_correct: bool) -> dict[GroupKey, torch.Tensor]:
    """The images of every class, ascending: sorted once, as a search for each of a thousand classes takes seconds."""
    usable = labels.counting(only_correct)
    order = labels.targets[usable].argsort(stable=True)
    classes, counts = labels.targets[usable].unique(return_counts=True)
    images = labels.indices[usable][order].split(counts.tolist())
    return dict(zip(classes.tolist(), images, strict=True))


def images_to_show(candidates: list[Candidate], members: dict[GroupKey, torch.Tensor]) -> dict[GroupKey, torch.Tensor]:
    """The images of groups on which equality is shown: four of a class, from all parts of it, one of an image set.

    An image set that is a candidate's only group of images has sixteen.

    They are chosen for all candidates of a run, whether their splits are stored already or not: a run that goes on
    after a stop shows the same. Beyond ``MOST_SHOWN`` there are fewer of a class, and in the end none of some groups,
    but at least one image for each candidate.
    """
    alone = {candidate.keys[0] for candidate in candidates if len(candidate.keys) == 1}
    for number in range(PROOF_IMAGES, 0, -1):
        of_set = {key: number**2 if key in alone else 1 for key in members}
        shown = {
            key: _spread(images, of_set[key] if isinstance(key, tuple) else number) for key, images in members.items()
        }
        if sum(map(len, shown.values())) <= MOST_SHOWN:
            return shown
    kept: set[GroupKey] = set()
    for candidate in candidates:
        if kept.isdisjoint(candidate.keys):
            kept.add(candidate.keys[0])
    others = torch.tensor([number for number, key in enumerate(shown) if key not in kept])
    kept_numbers = set(_spread(others, max(0, MOST_SHOWN - len(kept))).tolist())
    return {key: images for number, (key, images) in enumerate(shown.items()) if key in kept or number in kept_numbers}


def images_at_once(members: dict[GroupKey, torch.Tensor]) -> list[int]:
    """An image of each group, or of some from all over, on which to show equality of all splits at once."""
    keys = list(members)
    return [int(members[keys[number]][0]) for number in _spread(torch.arange(len(keys)), MOST_AT_ONCE).tolist()]


def _spread(values: torch.Tensor, number: int) -> torch.Tensor:
    """At most a number of values, from all parts."""
    if not len(values):
        return values
    return values[np.unique(np.linspace(0, len(values) - 1, number).astype(int))]


def order_of_reading(candidates: Sequence[HasKeys], sizes: dict[GroupKey, int]) -> list[GroupKey]:
    """The groups of images of candidates or splits, in an order in which many of these are finished early.

    The next group is always the one, for its number of images, that most candidates need; those that need few more
    images count most. ``sizes`` has the number of images of each group that is read.
    """
    users = _users_of(candidates, sizes)
    left = {id(candidate): sum(sizes.get(key, 0) for key in candidate.keys) for candidate in candidates}
    rank = {key: number for number, key in enumerate(in_order(users))}
    worth: dict[GroupKey, float] = {}

    def entry(key: GroupKey) -> tuple[float, int, GroupKey]:
        worth[key] = sum(float(left[id(user)]) ** -EARLY for user in users[key]) / sizes[key]
        return -worth[key], rank[key], key

    waiting = [entry(key) for key in users]
    heapq.heapify(waiting)
    order: dict[GroupKey, None] = {}
    while waiting:
        negative, _, key = heapq.heappop(waiting)
        if key in order or -negative != worth[key]:  # read already, or worth more by now
            continue
        order[key] = None
        for candidate in users[key]:
            left[id(candidate)] -= sizes[key]
        nearer = {
            waiting_key
            for candidate in users[key]
            for waiting_key in candidate.keys
            if waiting_key in users and waiting_key not in order
        }
        for waiting_key in in_order(nearer):
            heapq.heappush(waiting, entry(waiting_key))
    return list(order)


def _users_of(candidates: Sequence[HavingKeys], keys: Iterable[GroupKey]) -> dict[GroupKey, list[HavingKeys]]:
    """The candidates that have each of some groups of images; groups that no candidate has are left out."""
    users: dict[GroupKey, list[HavingKeys]] = {key: [] for key in keys}
    for candidate in candidates:
        for key in candidate.keys:
            if key in users:
                users[key].append(candidate)
    return {key: having for key, having in users.items() if having}


@dataclass(frozen=True)
class ReadingPlan:
    """The images that are read for some candidates of a run.

    ``groups`` has the indices of the images that are read of each group, in the order of reading; ``shown`` those on
    which equality is shown, of all groups of the run. The run has ``total`` candidates; the splits of the others are
    stored already.
    """

    candidates: list[Candidate]
    groups: dict[GroupKey, torch.Tensor]
    shown: dict[GroupKey, torch.Tensor]
    total: int

    @classmethod
    def of(
        cls,
        candidates: list[Candidate],
        missing: list[Candidate],
        members: dict[GroupKey, torch.Tensor],
        *,
        all_images: bool,
    ) -> ReadingPlan:
        """The plan for the ``missing`` ones of a run's candidates.

        With ``all_images`` all members are read, else those alone on which equality is shown.
        """
        shown = images_to_show(candidates, members)
        read = members if all_images else shown
        order = order_of_reading(missing, {key: len(images) for key, images in read.items() if len(images)})
        return cls(missing, {key: read[key] for key in order}, shown, len(candidates))

    @property
    def num_images(self) -> int:
        return sum(map(len, self.groups.values()))

    @property
    def num_shown(self) -> int:
        """How many of the images are there to show equality on."""
        return sum(len(self.shown.get(key, ())) for key in self.groups)


def images_in_turn(
    plan: ReadingPlan, divider: Divider, source: ImageSource
) -> Iterator[tuple[Candidate, dict[GroupKey, torch.Tensor]]]:
    """One pass over the images of a plan; a candidate is ready when its last group has been read.

    A batch that the divider sees is of one group, a class or an image set, so that it is the same however many
    candidates there are.

    Yields
    ------
    candidate : Candidate
        For which ``divider.divide(candidate)`` has all it needs.
    crops : dict of key -> Tensor [n, H, W, 3], uint8, on the CPU
        The images of its groups on which to show equality, in the order of its keys.
    """
    users = _users_of(plan.candidates, plan.groups)
    unread = {id(candidate): sum(key in users for key in candidate.keys) for candidate in plan.candidates}
    unfinished = {key: len(having) for key, having in users.items()}
    crops: dict[GroupKey, list[torch.Tensor]] = {key: [] for key in users}
    parts = batches_by_group(plan.groups, source.batch_size)
    batches = [[part] for part in parts] if divider.sees_images else _joined(parts, source.batch_size)
    indices = [[index for part in batch for index in part.indices] for batch in batches]
    loader = source.batches(indices, divider.progress if divider.sees_images else None)
    bar = progress(
        total=plan.total,
        initial=plan.total - len(plan.candidates),
        desc=divider.progress,
        unit=" splits",
        images=plan.num_images,
        hidden=divider.sees_images,
    )
    with divider, bar:
        for batch, images in zip(batches, loader, strict=True):
            row_of = {index: row for row, index in enumerate(images.indices.tolist())}
            for part in batch:
                key = part.group
                shown = set(plan.shown[key].tolist()) if key in plan.shown else set()
                rows = [row_of[index] for index in part.indices if index in shown and index in row_of]
                if rows:
                    crops[key].append(images.crops[rows].cpu())
                if divider.sees_images and row_of:
                    divider.see(users[key], key, images.pixels)
                for candidate in users[key] if part.is_last else ():
                    unread[id(candidate)] -= 1
                    if unread[id(candidate)]:
                        continue
                    own_keys = [own_key for own_key in candidate.keys if own_key in users]
                    yield candidate, {own_key: torch.cat(crops[own_key]) for own_key in own_keys if crops[own_key]}
                    bar.update()
                    for own_key in own_keys:
                        unfinished[own_key] -= 1
                        if not unfinished[own_key]:
                            del crops[own_key]


def _joined(parts: list[PlannedBatch[GroupKey]], batch_size: int) -> list[list[PlannedBatch[GroupKey]]]:
    """Batches of several groups, of up to ``batch_size`` images."""
    batches: list[list[PlannedBatch[GroupKey]]] = []
    for part in parts:
        if not batches or sum(len(each.indices) for each in batches[-1]) + len(part.indices) > batch_size:
            batches.append([])
        batches[-1].append(part)
    return batches
