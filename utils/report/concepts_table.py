"""The table of the channels of the parts of a split layer: the channel and concept of each."""

from pathlib import Path

from utils.method.disentangling import Split
from utils.networks.layers import Layer
from utils.networks.splitting import DisentangledLayer, parts_table
from utils.report.tables import Table


def write_concepts(manifest: Path, layer: Layer, splits: list[Split]) -> Path:
    """Write the table of a layer with all these splits next to their manifest; return its path."""
    path = manifest.with_name(f"{manifest.stem.removesuffix('_layer')}_concepts.csv")
    rows = parts_table(DisentangledLayer(layer, splits))
    plain = [{**row, "classes": "; ".join(map(str, row["classes"]))} for row in rows]
    Table([key.capitalize() for key in plain[0]], [list(row.values()) for row in plain]).write_csv(path)
    return path
