"""The four stages as functions of their settings; the scripts call them.

from utils.entries import ImportanceSettings, measure_importances

store = measure_importances(ImportanceSettings(model="resnet50", data_dir="my_images"))
"""

from typing import Any

ENTRIES = {
    "ImportanceSettings": "utils.command_line.settings",
    "SimilaritySettings": "utils.command_line.settings",
    "DisentanglingSettings": "utils.command_line.settings",
    "ResultSettings": "utils.command_line.settings",
    "measure_importances": "utils.entries.importance_stage",
    "find_polysemantic": "utils.entries.similarity_stage",
    "disentangle": "utils.entries.disentangling_stage",
    "evaluate": "utils.entries.result_stage",
}


def __getattr__(name: str) -> Any:
    if name not in ENTRIES:  # each is imported on first use: they import torch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(ENTRIES[name]), name)
