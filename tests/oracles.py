"""What the project computes, a second time: the slow way, image by image and pair by pair."""

import itertools
import math

import numpy as np
import torch
from scipy.optimize import minimize

from tests import factories
from tests.scripts import CHANNEL, RUN
from utils.images.batches import ImageBatches, Loading
from utils.images.folders import list_images
from utils.store.importance_store import ImportanceStore
from utils.store.splits import transform_from


def load(folder, split):
    """All images of a split in the transform of the tests, with their targets."""
    images, meta = list_images(folder / "data" / split), ImportanceStore(folder / "store", RUN).load_meta()
    batches = [list(range(len(images)))]
    loading = Loading(torch.device("cpu"))
    ((_, pixels, *_),) = ImageBatches(images, transform_from(meta["transform"]), batches, "", loading)
    return pixels, torch.from_numpy(images.folder_of)


def stored_images(store):
    """All that an ImportanceStore has of images, by name."""
    store.load_meta()
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    join = {name: np.concatenate if name == "content" else torch.cat for name in chunks[0]}
    return {name: join[name]([chunk[name] for chunk in chunks]) for name in chunks[0]}


def concept_arrays(folder, concepts, only_correct):
    """What stage 3 should use of each concept: its images' indices and its ARV for channel 9, from the chunks."""
    images = stored_images(ImportanceStore(folder / "store", RUN))
    weight, members, arvs = factories.small().last.weight[CHANNEL, :, 0, 0], [], []
    for concept in concepts:
        of_class = [images["targets"] == output for output in concept]
        if only_correct:
            of_class = [own & (images["predictions"] == images["targets"]) for own in of_class]
        members.append(images["indices"][sum(of_class).bool()])
        arvs.append(torch.stack([weight * images["input_sums"][own, :, 0].mean(0) for own in of_class]).mean(0))
    return members, torch.stack(arvs)


def contributions(folder, images="train", channel=CHANNEL):
    """``W_i S_i`` in all images of a store, [n, C_in]: their indices are 0 ... n - 1."""
    found = stored_images(ImportanceStore(folder / "store", RUN, images))
    return factories.small().last.weight[channel, :, 0, 0] * found["input_sums"][..., 0]


def pure_by_hand(folder, images, channel=CHANNEL):
    """Largest activations [n] of all images and their circuits [n, C_in], image by image."""
    network, found = factories.small(), []
    for image in load(folder, images)[0]:
        x = network.stem(image[None]).requires_grad_()
        activation = network.last(x)[0, channel]
        activation.backward(activation.detach().clamp(min=0))
        circuit = (x * x.grad).sum((0, 2, 3)).detach()
        found.append((float(activation.max()), circuit / (circuit.abs().sum() + 1e-10)))
    values, circuits = zip(*found, strict=True)
    return torch.tensor(values), torch.stack(circuits)


def objective_loop(maps, concept):
    """Eq. 6's summand for one image and one split, three readings: ``maps`` is [K][P] of floats."""
    others = [k for k in range(len(maps)) if k != concept]
    positive = [sum(max(value, 0) for value in row) for row in maps]
    absolute = [sum(abs(value) for value in row) for row in maps]
    other, other_absolute = (sum(s[k] for k in others) / len(others) for s in (positive, absolute))
    both = positive[concept] + other
    return (
        positive[concept] / (other + 1e-5),
        absolute[concept] / (other_absolute + 1e-5),
        (positive[concept] - other) / both if both else 0.0,
    )


def monosemanticity_by_hand(activations, embeddings):
    """Monosemanticity of one unit, pair by pair: [N], [N, D] arrays."""
    if activations.max() == activations.min():
        return np.nan
    scaled = (activations - activations.min()) / (activations.max() - activations.min())
    weighted = total = 0.0
    for i, j in itertools.combinations(range(len(scaled)), 2):
        cosine = embeddings[i] @ embeddings[j] / np.linalg.norm(embeddings[i]) / np.linalg.norm(embeddings[j])
        weighted += scaled[i] * scaled[j] * cosine
        total += scaled[i] * scaled[j]
    return weighted / total


def average_precision(scores, own):
    """The step integral of precision over recall, threshold by threshold."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [mine for score, mine in zip(scores, own, strict=True) if score >= threshold]
        total += (sum(found) / sum(own) - recall) * sum(found) / len(found)
        recall = sum(found) / sum(own)
    return total


def area(scores, own):
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, mine in zip(scores, own, strict=True) if mine
        for low, other in zip(scores, own, strict=True) if not other
    ]  # fmt: skip
    return sum(pairs) / len(pairs)


def correlation(scores, own):
    """Pearson's correlation of scores with the indicator of a concept's images, by its definition, image by image."""
    pairs = [(float(score), float(mine)) for score, mine in zip(scores, own, strict=True)]
    mean_score, mean_own = (math.fsum(values) / len(pairs) for values in zip(*pairs, strict=True))
    covariance = math.fsum((score - mean_score) * (mine - mean_own) for score, mine in pairs)
    variances = (
        math.fsum((score - mean_score) ** 2 for score, _ in pairs),
        math.fsum((mine - mean_own) ** 2 for _, mine in pairs),
    )
    return covariance / math.sqrt(variances[0] * variances[1])


def least_squares_by_scipy(weight, groups, importance, target=None, ridge=0.01):
    """Shares of the inputs of one unit, arrays [C_in, taps], by scipy's solver: [K, C_in]."""
    target = weight if target is None else target
    inputs = [(weight * np.asarray(images, dtype=float)).sum(2) for images in groups]
    wanted = [(target * np.asarray(images, dtype=float)).sum((1, 2)) for images in groups]
    shape = len(groups), len(weight)
    factor = ridge * sum(w * (x**2).mean(0) for w, x in zip(importance, inputs, strict=True)).mean()

    def value_and_gradient(flat):
        shares = flat.reshape(shape)
        value = factor * ((shares - 1 / shape[0]) ** 2).sum()
        gradient = 2 * factor * (shares - 1 / shape[0])
        for g, (x, w) in enumerate(zip(inputs, importance, strict=True)):
            errors = x @ shares.T
            errors[:, g] -= wanted[g]
            value += w * (errors**2).sum(1).mean()
            gradient += 2 * w * errors.T @ x / len(x)
        return value, gradient.ravel()

    scale = value_and_gradient(np.zeros(shape).ravel())[0]
    found = minimize(
        lambda flat: tuple(part / scale for part in value_and_gradient(flat)),
        np.full(shape, 1 / shape[0]).ravel(),
        jac=True,
        bounds=[(0, 1)] * (shape[0] * shape[1]),
        constraints=[{"type": "eq", "fun": lambda flat: flat.reshape(shape).sum(0) - 1}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-13},
    )
    assert found.success
    return found.x.reshape(shape)
