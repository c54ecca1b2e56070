"""What stage 1 says: what it is going to measure, and what a complete store holds."""

from utils.errors import UserError


def print_plan(store, model, network, layer, images, device, precision, num_processes):
    """Say what is going to be done."""
    print(f"{model} with weights {network.weights}; layer of interest: {layer.name}")
    if layer.note:
        print(f"note: {layer.note}")
    shared = f", shared by {num_processes} processes" if num_processes > 1 else ""
    print(f"{len(images)} images of {len(images.folders)} classes on {device}, {precision}{shared}")
    present = store.num_chunks - len(store.missing_chunks())
    if present:
        print(f"going on: {present} of {store.num_chunks} chunks are there")


def print_store_summary(store):
    """Say what a complete store holds; UserError where that is nothing."""
    indices, targets, predictions = store.read_labels()
    total = store.meta["num_images"]
    if len(indices) == 0:
        raise UserError(f"none of the {total} images could be read: nothing can be computed from {store.folder}")
    skipped = f", {total - len(indices)} unreadable ones left out" if len(indices) < total else ""
    correct = (targets == predictions).sum().item()
    print(f"{len(indices)} images{skipped}; {correct / len(indices):.1%} classified correctly")
    print(f"wrote {store.folder}")
