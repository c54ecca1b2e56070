"""Which networks can be split, and how exactly: a small member of each family of torchvision and, if there, of timm.

    python -m benchmarks.networks
    python -m benchmarks.networks --families resnet vision_transformer

Each network gets random weights and BatchNorm statistics of random images, on the smallest images that it takes. The
last convolution, one in the middle and, where there is more than a classifier, the last linear layer are looked for,
checked and split as the stages do it; the channel that moves the logits most is split into two concepts. Prints a
Markdown table: the kind of layer (of a linear one the map that its tokens are of, and how many lie nowhere in it), what
came of it, that is a refusal in the words of stage 1, or how far the split network is from the original, as stage 3
measures it, and how many predictions change. A network that fails in any other way makes the exit status 1. Six minutes
on 2 cores, half an hour more with timm.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from torch import nn
from tqdm import tqdm

from benchmarks.report import print_table
from utils.divisions.arv import OBJECTIVES, USUAL_OBJECTIVE, Arv
from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.disentangling import Concept, Split, split_sources
from utils.method.importance import channel_importances
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.method.rho import RHOS
from utils.networks.independence import check_independence
from utils.networks.layers import check_normal_form, find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import Recorder
from utils.networks.splitting import with_splits
from utils.stages.equality_proof import EqualityProof

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18"),
    *("resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"),
    *("vit_b_16", "wide_resnet50_2"),
)
SMALL = ("atto", "femto", "pico", "nano", "xxt", "xxs", "tiny", "xs", "mini", "small", "_t", "_s", "18", "b0", "0")
SIZES = (64, 96, 128, 192, 224, 256)  # of images, in pixels
IMAGES = 4
HEADER = ("network", "layer", "kind", "outcome", "channel, fp64", "logits, fp64", "logits, fp32", "predictions changed")


def networks(families):
    """Names of networks, and functions that make them: those whose family or name contains one of ``families``."""
    get_model = torchvision.models.get_model
    found = {f"torchvision {name}": lambda name=name: from_file(name, get_model, name) for name in TORCHVISION}
    try:
        import timm
    except ImportError:
        timm = None
    for family in timm.list_modules() if timm else ():
        members = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
        small = next((name for part in SMALL for name in members if part in name), None) or members[0]
        found[f"timm {family}: {small}"] = lambda name=small: from_file(f"timm:{name}", timm.create_model, name)
    return {name: make for name, make in found.items() if not families or any(one in name for one in families)}


def from_file(model, make, name):
    """The network that ``--model`` names, with calibrated weights from a local state dict, as a user's own network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(calibrated(make, name).state_dict(), path)
        return load_network(model, str(path)).module


def calibrated(make, name):
    """A network with random weights, frozen; its BatchNorms have the statistics of random images, and scale nothing.

    Weights that are all zero at first, as some classifiers' are, would hide every difference: they are random, too.
    """
    torch.manual_seed(0)
    network = make(name).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.train().reset_parameters()
    for weight in (one for one in network.parameters() if one.ndim > 1 and not one.any()):
        nn.init.trunc_normal_(weight, std=0.02)
    with torch.no_grad():
        network(random_images(network))
    return network.eval()


def random_images(network):
    """Of the smallest size that the network takes (or the largest that is tried)."""
    was_training = [module for module in network.modules() if module.training]
    for size in SIZES:
        images = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                network.eval()(images[:2])
            break
        except Exception:  # the many ways in which networks say that images are too small
            continue
    for module in was_training:
        module.training = True
    return images


def middle_convolution(network):
    names = [name for name, one in network.named_modules() if isinstance(one, nn.Conv2d) and one.groups == 1]
    return names[len(names) // 2] if names else "last_conv"


def layers_of(network):
    """Names of the layers that are looked at."""
    linear = [one for one in network.modules() if isinstance(one, nn.Linear)]
    return dict.fromkeys(("last_conv", middle_convolution(network), *(["last_linear"] if len(linear) > 1 else [])))


def kind_of(layer):
    """The layer's kind in a few words: of a kernel, or of where its tokens lie."""
    name = type(layer.module).__name__
    if hasattr(layer.module, "kernel_size"):
        return f"{name} {'x'.join(map(str, layer.module.kernel_size))}"
    if layer.map_size is None:
        return f"{name}, " + ("vector" if layer.num_positions == 1 else f"{layer.num_positions} tokens somewhere")
    nowhere = int(layer.places().isnan().any(1).sum())
    return f"{name}, {'x'.join(map(str, layer.map_size))}{f' + {nowhere}' if nowhere else ''}"


def split_of_images(network, layer, images):
    """A split of the channel that moves the logits most, between the two halves of the images; rho = 1."""
    with Recorder(network, layer) as recorder:
        record = recorder.forward_with_gradient(images, torch.arange(IMAGES))
    check_normal_form(layer, record)
    channel = int(channel_importances(record.activation, record.gradient).abs().sum(0).argmax())
    means = layer.tap_sums(record.input).double().unflatten(0, (2, -1)).mean(1)
    arvs = averaged_relevance_vectors(layer.weight[channel], means).float()
    owners = torch.stack([split_sources(arvs, rho) for rho in RHOS]).to(torch.uint8)
    objectives = torch.zeros(len(RHOS), len(OBJECTIVES), dtype=torch.float64)
    return Split(
        channel=channel,
        concepts=[Concept("first half", [0]), Concept("second half", [1])],
        weight=layer.weight[channel].clone(),
        bias=None if layer.bias is None else layer.bias[channel].clone(),
        positions=layer.num_positions,
        arvs=arvs,
        mean_arv=arvs.mean(0),
        division=Arv(owners, objectives, USUAL_OBJECTIVE, 1.0, 2),
    )


def split_one(network, name, images):
    """Find, check and split a layer as the stages do it: what the table says of it.

    Raises
    ------
    UserError
        What stage 1 refuses.
    AssertionError
        A split network that is not the original.
    """
    layer = find_layer(network, name, images.shape[-1])
    check_independence(network, images)
    split = split_of_images(network, layer, images)
    crops = (64 * images + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)
    proof = EqualityProof(OpenedNetwork(network, layer, "fp32"), Transform())
    check = proof.check([split], dict(enumerate(crops.unflatten(0, (2, -1)))))
    with torch.no_grad():
        changed = with_splits(network, layer.name, [split])(images).argmax(1) != network(images).argmax(1)
    errors = [f"{error:.0e}" for error in (*check.errors(), check.fp32_errors()[1])]
    if not check.is_equal():
        raise AssertionError(f"the split network is not the original: {', '.join(errors)} in {check.precision}")
    exact = errors[:2] if check.precision == "fp64" else ("runs in fp32 only", "")
    return layer.name, kind_of(layer), "split", *exact, errors[2], f"{int(changed.sum())} of {IMAGES}"


def rows_of(label, make):
    """The rows of a network for the table, and whether all went as it may go."""
    try:
        network = make()
        images = random_images(network)
        names = layers_of(network)
    except Exception as error:  # of a network that cannot even be made
        return [(label, "", "", failure(error), *[""] * 4)], False
    rows, well = [], True
    for name in names:
        try:
            rows.append((label, *split_one(network, name, images)))
        except UserError as error:
            rows.append((label, name, "", f"refused: {error}", *[""] * 4))
        except Exception as error:  # which is what this is here to find
            rows.append((label, name, "", failure(error), *[""] * 4))
            well = False
    return list(dict.fromkeys(rows)), well  # the last convolution may be the one in the middle


def failure(error):
    return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", help="only networks whose family or name contains one of these")
    args = parser.parse_args()
    rows, all_well = [], True
    for label, make in tqdm(networks(args.families).items(), "networks"):
        own, well = rows_of(label, make)
        rows += own
        all_well = all_well and well
    print_table(HEADER, rows)
    sys.exit(0 if all_well else 1)


if __name__ == "__main__":
    main()
