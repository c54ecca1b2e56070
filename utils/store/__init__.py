"""The store: paths and formats of all files that one stage writes for the next.

A script of your own needs ``from utils.store import edited_network, split_network, stored_transform``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in (
        "edited_network",
        "split_network",
        "stored_transform",
    ):  # imported on first use, because they import torch
        from utils.store import networks

        return getattr(networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
