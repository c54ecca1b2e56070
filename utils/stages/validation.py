"""Stage 4's images: from val/, by one pass of the network, or from a val store, without network and images."""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.images.listing import class_folders, has_images, list_images
from utils.images.text import printable
from utils.method.importance import attribution_shares
from utils.networks.arithmetic import network_arithmetic
from utils.networks.recording import Recorder


class MeasuredBatch(NamedTuple):
    """Images of one class, B of them: all that the evaluation of any split needs.

    ``indices`` LongTensor [B] in the ImageList, ``contents`` uint64 array [B], ``predictions`` LongTensor [B];
    ``tap_sums`` [B, C_in, taps] float64, ``shares`` [B, C] float16, both on the CPU; ``input`` is the layer's input, or
    None where it is not at hand.
    """

    indices: torch.Tensor
    contents: np.ndarray
    predictions: torch.Tensor
    tap_sums: torch.Tensor
    shares: torch.Tensor
    input: torch.Tensor | None


def list_validation(root, classes, outputs, all_classes=False):
    """Images of classes, given as network outputs, and of all other classes if asked for: an ImageList of ``val/``."""
    own = [classes.folder(output) for output in outputs]
    if not all_classes:
        return list_images(root, own)
    others = [name for name in class_folders(root) if name not in own and has_images(root / name)]
    return list_images(root, [*own, *others])


def without_images(root, classes, outputs):
    """Which classes, given as network outputs, have no image in ``val/``: {output: why}."""
    present, missing = class_folders(root), {}
    for output in outputs:
        folder = classes.folder(output)
        if folder not in present:
            missing[output] = f"{root} has no class folder {printable(folder)}"
        elif not has_images(root / folder):
            missing[output] = f"class folder {printable(str(root / folder))} has no images"
    return missing


def without_measured_images(store, images, classes, outputs):
    """Which classes have no image among those of a val store, its ImageList: {output: why}."""
    missing = [output for output in outputs if classes.folder(output) not in images.folders]
    return {output: f"{store.folder} has no images of {printable(classes.folder(output))}" for output in missing}


def indices_of_class(images, classes, output):
    """Indices of the images of a class, given as network output."""
    return np.flatnonzero(images.folder_of == images.folders.index(classes.folder(output)))


def files_digest(images, classes, outputs):
    """SHA-256 of the relative paths and sizes of the images of some classes."""
    digest = hashlib.sha256()
    for output in sorted(outputs):
        for index in indices_of_class(images, classes, output):
            digest.update(b"%s\0%d\n" % (images.paths[index], images.sizes[index]))
    return digest.hexdigest()


def contents_digest(images, indices, contents):
    """SHA-256 of the relative paths and contents of images, that of one class folder say."""
    names = b"\0".join(images.paths[indices].tolist())
    return hashlib.sha256(names + np.asarray(contents).tobytes()).hexdigest()


class ImagePass:
    """Validation images that are read, and measured by one pass of the network, class by class.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    images : ImageList
    classes : ClassMap
    load : function of (batches, description) that returns ImageBatches
    batch_size : int
    how : dict
        ``precision`` and ``decoding``.
    """

    has_input = True

    def __init__(self, network, layer, images, classes, load, batch_size, how):
        self.network, self.layer, self.images, self.classes = network, layer, images, classes
        self.load, self.batch_size, self.how = load, batch_size, how

    def __str__(self):
        return f"images of {self.images.root}"

    def batches(self, outputs):
        """Yields (output, MeasuredBatch), or None for the latter where no image of a batch could be read.

        A batch is of one class, so that it is the same however many splits there are.
        """
        indices = {output: indices_of_class(self.images, self.classes, output) for output in outputs}
        plan = [(output, batch) for output in outputs for batch in batches_of(indices[output], self.batch_size)]
        loader = self.load([batch for _, batch in plan], "validation images")
        with Recorder(self.network, self.layer) as recorder:
            for (output, _), (indices, pixels, contents) in zip(plan, loader, strict=True):
                if not len(indices):
                    yield output, None
                    continue
                targets = torch.full((len(indices),), output, device=loader.device)
                with network_arithmetic(self.how["precision"], loader.device):
                    record = recorder.forward_with_gradient(pixels, targets)
                require_finite(record, indices, self.images)
                shares = attribution_shares(record.activation, record.gradient).half().cpu()
                tap_sums = self.layer.tap_sums(record.input).double().cpu()
                predictions = record.logits.argmax(1).cpu()
                yield output, MeasuredBatch(indices, contents, predictions, tap_sums, shares, record.input)


class StoredValidation:
    """Validation images that stage 1 has measured (``--images val``): no network and no image is needed."""

    has_input, network, layer = False, None, None

    def __init__(self, store, root, classes):
        self.store, self.images, self.classes = store, store.read_images(root), classes
        self.how = {name: store.meta[name] for name in ("precision", "decoding")}

    def __str__(self):
        return f"measured by {self.store.folder}"

    def batches(self, outputs):
        """The same as ``ImagePass.batches``, without the layer's input."""
        size, names = self.store.meta["chunk_size"], ("indices", "predictions", "input_sums", "shares")
        read = lru_cache(1)(lambda chunk: self.store.read_chunk(chunk, [*names, "targets", "content"]))
        for output in outputs:
            own = indices_of_class(self.images, self.classes, output)
            for chunk in range(own[0] // size, own[-1] // size + 1):
                found = read(chunk)
                rows = found["targets"] == output
                indices, predictions, tap_sums, shares = (found[name][rows] for name in names)
                contents = found["content"][rows.numpy()]
                batch = MeasuredBatch(indices, contents, predictions, tap_sums.double(), shares, None)
                yield output, batch if len(indices) else None


def require_finite(record, indices, images):
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = [record.input, record.activation, record.logits, *([] if record.gradient is None else [record.gradient])]
    require_finite_values(values, indices, images)


def require_finite_values(values, indices, images):
    """The same, of tensors that have an equal part for each of the images at ``indices``."""
    finite = torch.stack([value.reshape(len(indices), -1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")
