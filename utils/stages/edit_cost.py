"""What an edit costs: the network before and after it, on all validation images."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.defaults import COST_CLASSES
from utils.errors import UserError
from utils.images.batches import ImageSource
from utils.images.folders import ClassMap
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import require_finite_values
from utils.networks.replay import Replay
from utils.networks.splitting import replace_module
from utils.stages.validation import contents_digest


@dataclass(frozen=True)
class ClassCost:
    """What an edit costs a class: its validation ``images`` that are classified correctly before and after it.

    ``own_logit_change`` is the mean change of its logit in its images.
    """

    output: int
    name: str
    images: int
    correct_before: int
    correct_after: int
    own_logit_change: float

    @property
    def change(self) -> tuple[float, float]:
        """Of its accuracy, and of its logit: what classes are ranked by."""
        return (self.correct_after - self.correct_before) / self.images, self.own_logit_change


def cost_of_edit(
    network: OpenedNetwork, edited: nn.Module, edited_modules: Sequence[str], source: ImageSource, classes: ClassMap
) -> dict[str, Any]:
    """Measure predictions before and after an edit, in one pass: what is before the layer is computed once an image.

    Parameters
    ----------
    network : OpenedNetwork
        The original one.
    edited : nn.Module
        The edited network, on the same device.
    edited_modules : list of str
        The names of the modules in which it differs: the layer, and perhaps the BatchNorm after it.
    source : ImageSource
        All validation images.
    classes : ClassMap

    Returns
    -------
    dict
        ``images`` and ``classes``: how many; ``top1_before`` and ``top1_after``, shares of the images;
        ``changed_predictions``; ``own_logit_change``, the mean over the images; ``lose_most`` and ``gain_most``, the
        classes that lose or gain most, as dictionaries of ClassCost; ``by_class``, all of them; ``contents_sha256`` of
        the images.

    Raises
    ------
    UserError
        No image could be read, or a logit is not finite.
    """
    images = source.images
    outputs = torch.tensor([classes.outputs[folder] for folder in images.folders])
    targets = outputs[torch.from_numpy(images.folder_of)]
    measured = []
    contents = []
    for batch in source.in_order(range(len(images)), "cost of the edit").readable():
        of_batch = targets[batch.indices][:, None]
        with network.arithmetic():
            replay = Replay(network.module, network.layer.module, batch.pixels)
            with torch.no_grad():
                before = replay()
                with _in_place(network.module, edited, edited_modules):
                    after = replay()
        require_finite_values([before, after], batch.indices, images)
        measured.append(_of_batch(batch.indices, of_batch, before.double().cpu(), after.double().cpu()))
        contents.append(torch.from_numpy(batch.contents.view("int64")))
    if not measured:
        raise UserError("no validation image could be read: what an edit costs cannot be measured")
    return _summary(measured, contents, source, classes)


@dataclass(frozen=True)
class _Measured:
    """Of B images: their indices and outputs; whether each is classified correctly before and after the edit, whether
    its prediction changes, and the change of its own class's logit.
    """

    indices: Tensor
    outputs: Tensor
    before: Tensor
    after: Tensor
    changed: Tensor
    logit_changes: Tensor


def _of_batch(indices: Tensor, outputs: Tensor, before: Tensor, after: Tensor) -> _Measured:
    """``outputs`` [B, 1] of the images' own classes, ``before`` and ``after`` [B, outputs] logits."""
    predictions = before.argmax(1), after.argmax(1)
    return _Measured(
        indices=indices,
        outputs=outputs[:, 0],
        before=predictions[0] == outputs[:, 0],
        after=predictions[1] == outputs[:, 0],
        changed=predictions[0] != predictions[1],
        logit_changes=(after - before).gather(1, outputs)[:, 0],
    )


def _summary(
    measured: list[_Measured], contents: list[Tensor], source: ImageSource, classes: ClassMap
) -> dict[str, Any]:
    """The dictionary that ``cost_of_edit`` returns."""
    whole = _Measured(*(torch.cat(values) for values in zip(*map(_fields, measured), strict=True)))
    by_class = [_class_cost(whole, output, classes.name(output)) for output in whole.outputs.unique().tolist()]
    ranked = sorted(by_class, key=lambda cost: cost.change)
    losing = [cost for cost in ranked if cost.change < (0, 0)]
    gaining = [cost for cost in reversed(ranked) if cost.change > (0, 0)]
    digest = contents_digest(source.images, whole.indices.numpy(), torch.cat(contents).numpy().view("uint64"))
    return {
        "images": len(whole.indices),
        "classes": len(by_class),
        "top1_before": float(whole.before.double().mean()),
        "top1_after": float(whole.after.double().mean()),
        "changed_predictions": int(whole.changed.sum()),
        "own_logit_change": float(whole.logit_changes.mean()),
        "lose_most": [asdict(cost) for cost in losing[:COST_CLASSES]],
        "gain_most": [asdict(cost) for cost in gaining[:COST_CLASSES]],
        "by_class": [asdict(cost) for cost in by_class],
        "contents_sha256": digest,
    }


def _fields(measured: _Measured) -> tuple[Tensor, ...]:
    return tuple(vars(measured).values())


def _class_cost(measured: _Measured, output: int, name: str) -> ClassCost:
    rows = measured.outputs == output
    before, after = (int(values[rows].sum()) for values in (measured.before, measured.after))
    return ClassCost(output, name, int(rows.sum()), before, after, float(measured.logit_changes[rows].mean()))


@contextmanager
def _in_place(network: nn.Module, edited: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """While in the block, some modules of the edited network are in the original one, in place of its own."""
    pairs = [(network.get_submodule(name), edited.get_submodule(name)) for name in names]
    with ExitStack() as restored:
        for original, changed in pairs:
            replace_module(network, original, changed)
            restored.callback(replace_module, network, changed, original)
        yield
