"""The table that says what each channel of the parts of a split layer is."""

from utils.networks.splitting import DisentangledLayer, parts_table
from utils.report.layer_tables import write_table


def write_concepts(manifest, layer, splits):
    """Write the table of a layer with all these splits, beside their manifest: its path."""
    path = manifest.with_name(f"{manifest.stem.removesuffix('_layer')}_concepts.csv")
    table = parts_table(DisentangledLayer(layer, splits))
    plain = [{**row, "classes": "; ".join(map(str, row["classes"]))} for row in table]
    write_table(path, [key.capitalize() for key in plain[0]], [row.values() for row in plain])
    return path
