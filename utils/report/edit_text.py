"""What stage 4 prints of an edited network: what was taken out, what it costs, and how it is loaded."""

from typing import Any

from utils.report.numbers import HYPHEN


def print_edit(record: dict[str, Any]) -> None:
    """Print what was taken out of which channels, and what that costs."""
    left = f"{record['factor']:g} of the part is left" if record["factor"] else "the part is removed"
    print(f"\nedited network of {record['model']}, layer {record['layer']}: {left}, to={record['to']}")
    for split in record["splits"]:
        names = ", ".join(concept["name"] for concept in split["concepts"])
        print(f"channel {split['channel']}: {names}")
    cost = record["cost"]
    before, after = (f"{cost[key]:.2%}" for key in ("top1_before", "top1_after"))
    print(
        f"top-1 of {cost['images']:,} validation images of {cost['classes']:,} classes: {before}, after it {after}; "
        f"{cost['changed_predictions']:,} predictions change; own logit {cost['own_logit_change']:+.4f} in the mean"
    )
    outputs = {output for split in record["splits"] for concept in split["concepts"] for output in concept["classes"]}
    of_concepts = [row for row in cost["by_class"] if row["output"] in outputs]
    for title, rows in (
        ("classes of the concepts", of_concepts),
        ("classes that lose most", cost["lose_most"]),
        ("classes that gain most", cost["gain_most"]),
    ):
        if rows:
            _print_classes(title, rows)


def _print_classes(title: str, rows: list[dict[str, Any]]) -> None:
    width = max(len(title), *(len(row["name"]) for row in rows))
    print(f"\n{title:{width}}  images  correct before  after  own logit")
    for row in rows:
        change = f"{row['own_logit_change']:+.4f}".replace("-", HYPHEN)
        counts = f"{row['images']:6}  {row['correct_before']:14}  {row['correct_after']:5}"
        print(f"{row['name']:{width}}  {counts}  {change:>9}")
