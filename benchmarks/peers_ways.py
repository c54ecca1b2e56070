"""The ways that benchmarks.peers compares, each in a process of its own: what it took goes into a JSON file."""

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.published import Published, our_importances
from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.command_line.settings import ImportanceSettings
from utils.concept_sources.stored_image_sets import strongest_images
from utils.images.batches import ImageSource
from utils.images.folders import ImageList, list_images, map_folders
from utils.images.transform import Transform
from utils.networks.layers import Layer, find_layer
from utils.networks.loading import LoadedNetwork, load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import choose_device
from utils.stages.strongest_patches import find_strongest
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

REFERENCES = 100  # strongest images of each unit: what PURE takes; SemanticLens has no default
CRP_BATCH_SIZE = 32  # zennit-crp's default, and PURE's


@dataclass(frozen=True)
class Prepared:
    """The network, the layer and the images of all ways, and an empty folder for what a way writes."""

    settings: ImportanceSettings
    loaded: LoadedNetwork
    layer: Layer
    transform: Transform
    images: ImageList
    folder: Path
    device: torch.device

    def outputs(self) -> torch.Tensor:
        """The network output of each class folder."""
        return torch.tensor(list(map_folders(self.images.folders, self.layer.num_outputs).values()))

    def image_folder(self, *, normalised: bool) -> ImageFolder:
        """Images as tensors, with the network's output of their class, as torchvision's users load them."""
        steps = [
            transforms.Resize(self.transform.resize_size, transforms.InterpolationMode(self.transform.interpolation)),
            transforms.CenterCrop(self.transform.crop_size),
            transforms.ToTensor(),
        ]
        steps += [self.normalisation()] if normalised else []
        outputs = self.outputs().tolist()
        return ImageFolder(str(self.images.root), transforms.Compose(steps), target_transform=outputs.__getitem__)

    def normalisation(self) -> transforms.Normalize:
        return transforms.Normalize(self.transform.mean, self.transform.std)


def ours(prepared: Prepared) -> torch.Tensor:
    """Stage 1, then the strongest images of all units from its store: by spatial sum, as SemanticLens's mean."""
    settings = prepared.settings
    prepared.loaded.module.to(prepared.device, memory_format=torch.channels_last)
    our_importances(
        "fp32",
        prepared.folder,
        settings=settings,
        network=prepared.loaded,
        layer=prepared.layer,
        transform=prepared.transform,
        images=prepared.images,
        device=prepared.device,
    )
    store = ImportanceStore(prepared.folder, run_name(settings.model, settings.layer_of_interest))
    store.load_meta()
    weight, _ = store.read_layer()
    return strongest_images(store, weight, REFERENCES)


def patches(prepared: Prepared) -> torch.Tensor:
    """The pass of --report: the strongest patches of all units and where they are."""
    module, layer = prepared.loaded.module, prepared.layer
    module.to(prepared.device, memory_format=torch.channels_last)
    loading = flags.loading(prepared.settings, prepared.device)
    source = ImageSource(prepared.images, prepared.transform, prepared.settings.batch_size, loading)
    path = prepared.folder / "patches.pt"
    network = OpenedNetwork(module, layer, "fp32")
    strongest = find_strongest(source, network, layer.weight, layer.bias, Unfinished(path, {}))
    torch.save(tuple(strongest), path)
    return strongest.images


def published(prepared: Prepared) -> None:
    """The published procedure's stage 1 (benchmarks/published.py)."""
    settings = prepared.settings
    module = prepared.loaded.module.to(prepared.device)
    loading = prepared.transform, prepared.device, settings.batch_size, settings.num_workers
    procedure = Published(module, module.get_submodule(prepared.layer.name), *loading)
    procedure.importances(prepared.images.root, prepared.outputs(), prepared.folder)


def semanticlens(prepared: Prepared) -> torch.Tensor:
    """SemanticLens's collection, as its quickstart has it; spatial means are its default for convolutions."""
    from semanticlens.component_visualization import ActivationComponentVisualizer, aggregators

    module = prepared.loaded.module.to(prepared.device)
    module.name = "network"
    dataset = prepared.image_folder(normalised=True)
    dataset.name = "images"
    visualizer = ActivationComponentVisualizer(
        module,
        dataset_model=dataset,
        dataset_fm=dataset,
        layer_names=[prepared.layer.name],
        num_samples=REFERENCES,
        device=prepared.device,
        aggregate_fn=aggregators.aggregate_conv_mean,
        cache_dir=str(prepared.folder),
    )
    settings = prepared.settings
    cache = visualizer.run(batch_size=settings.batch_size, num_workers=settings.num_workers)
    return cache[prepared.layer.name].sample_ids


def zennit_crp(prepared: Prepared) -> torch.Tensor:
    """zennit-crp's feature visualization with the settings of PURE's preprocessing."""
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.helper import load_maximization
    from crp.visualization import FeatureVisualization
    from zennit.composites import EpsilonPlusFlat

    module = prepared.loaded.module.to(prepared.device)
    visualization = FeatureVisualization(
        CondAttribution(module),
        prepared.image_folder(normalised=False),
        {prepared.layer.name: ChannelConcept()},
        preprocess_fn=prepared.normalisation(),
        max_target="max",
        abs_norm=False,
        path=str(prepared.folder),
        device=prepared.device,
    )
    visualization.ActMax.SAMPLE_SIZE = REFERENCES
    composite = EpsilonPlusFlat([_canonizer(module)])
    visualization.run(composite, 0, len(prepared.images), batch_size=CRP_BATCH_SIZE)
    indices, _, _ = load_maximization(visualization.ActMax.PATH, prepared.layer.name)
    return torch.from_numpy(indices).T


def _canonizer(module: nn.Module) -> object:
    """What merges batch normalisation into convolutions before relevances are propagated."""
    from torchvision.models import ResNet
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.torchvision import ResNetCanonizer

    return ResNetCanonizer() if isinstance(module, ResNet) else SequentialMergeBatchNorm()


WAYS: dict[str, Callable[[Prepared], torch.Tensor | None]] = {
    "published": published,
    "ours": ours,
    "ours, patches": patches,
    "SemanticLens": semanticlens,
    "zennit-crp": zennit_crp,
}

LIBRARIES = {  # imported before the clock starts
    "SemanticLens": ("semanticlens.component_visualization",),
    "zennit-crp": ("crp.visualization", "zennit.composites", "zennit.torchvision"),
}


def stage1_parser() -> Parser:
    """The flags of stage 1."""
    parser = Parser(__doc__)
    for add in (flags.add_data_flag, flags.add_network_flags, flags.add_image_flags, flags.add_compute_flags):
        add(parser)
    return parser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path, help="has train/; what the way writes goes to written/")
    options, rest = parser.parse_known_args()
    settings = flags.settings_of(ImportanceSettings, stage1_parser().parse_args(rest))
    device = choose_device(settings.device)
    loaded = load_network(settings.model, settings.weights)
    transform = flags.transform_from_flags(settings, loaded.transform)
    written = options.folder / "written"
    written.mkdir()
    prepared = Prepared(
        settings,
        loaded,
        find_layer(loaded.module, settings.layer_of_interest, transform.crop_size),
        transform,
        list_images(options.folder / "train"),
        written,
        device,
    )
    for library in LIBRARIES.get(options.way, ()):
        importlib.import_module(library)
    start, before = time.perf_counter(), sum(os.times()[:4])
    images = WAYS[options.way](prepared)
    result = {"seconds": time.perf_counter() - start, "cpu": sum(os.times()[:4]) - before}
    result["strongest"] = None if images is None else images.tolist()
    (options.folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
