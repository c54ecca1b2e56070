"""Stage 1: importances and input sums of every image, in the store."""

import time

import torch

from utils.command_line import flags
from utils.command_line.next_steps import after_importances
from utils.command_line.opening import open_images, open_transform_of_stage1
from utils.command_line.run import print_end
from utils.command_line.settings import ImportanceSettings
from utils.errors import Interrupted
from utils.images.batches import ImageSource
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import check_precision, choose_device, compile_network
from utils.processes import this_process
from utils.report.store_text import kept_chunks, print_plan, print_store_summary, print_transform, warn_of_assumed
from utils.stages.importances import StoreSettings, check_on_images, describe_store, fill_store, planned_batches
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore


def measure_importances(settings: ImportanceSettings) -> ImportanceStore:
    """Measure the images of ``train/`` or ``val/`` in one forward pass; resume where an earlier run was stopped.

    Returns
    -------
    ImportanceStore
        Complete, unless other processes are still at work on it.

    Raises
    ------
    UserError
        The network, the layer or the images cannot be used, or the store was begun with other settings.
    """
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    loading = flags.loading(settings, device)
    run = run_name(settings.model, settings.layer_of_interest)
    store = ImportanceStore(settings.store_dir, run, settings.images)
    network = load_network(settings.model, settings.weights)
    transform = open_transform_of_stage1(settings, run, network)
    layer = find_layer(network.module, settings.layer_of_interest, transform.crop_size)
    images, classes = open_images(settings, run, network, layer)

    assumed = flags.assumed_transform(settings, network)
    process = this_process()
    described = StoreSettings(
        model=settings.model,
        images=settings.images,
        precision=settings.precision,
        decoding=settings.decode,
        compiled=settings.compile,
        skip_unreadable=settings.skip_unreadable,
        chunk_size=settings.chunk_size or store.chunk_size_for(len(images)),
    )
    meta = describe_store(described, network, layer, transform=transform, images=images, classes=classes)
    store.begin(meta, layer, images, process.rank)
    if process.rank == 0:
        print_plan(
            store,
            settings.model,
            images,
            network=network,
            layer=layer,
            device=device,
            precision=settings.precision,
            num_processes=process.size,
        )
        print_transform(transform, settings.model, network.transform_note, assumed)

    opened = OpenedNetwork(network.module, layer, settings.precision, network.weights).to(device)
    source = ImageSource(images, transform, settings.batch_size, loading)
    chunks = [chunk for chunk in store.missing_chunks() if chunk % process.size == process.rank]
    if chunks:
        check_on_images(opened, source)
    if settings.compile and chunks:
        size = len(planned_batches(store, chunks[:1], settings.batch_size)[0].indices)
        black = torch.zeros(size, transform.crop_size, transform.crop_size, 3, dtype=torch.uint8)
        compile_network(network.module, layer, loading.pixels(black, transform), settings.precision)
    try:
        fill_store(store, chunks, opened, source)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(kept_chunks(store)) from interrupt

    while process.ends_with_others and process.rank == 0 and store.missing_chunks():
        time.sleep(0.5)  # to report once
    if store.missing_chunks():
        print(f"process {process.rank} has finished its {len(chunks)} chunks; other processes are still working")
    elif process.rank == 0 or (chunks and not process.ends_with_others):
        correct = print_store_summary(store)
        print_end([store.folder], after_importances(settings, run, store))
        warn_of_assumed(correct, assumed)
    return store
