"""How stage 2's numbers stand beside those that are public of the paper (ResNet-50, IMAGENET1K_V1).

    python -m benchmarks.paper --model resnet50 --store_dir /store_dir --output_dir .

Public are 20 pairs of classes whose cosine is below 0.5 (paper_pairs.txt), and one cosine. Prints each pair: whether it
is among the candidates that stage 2 found with the paper's settings, its cosine, and why it is not there. Numbers that
differ are said, and are no failure: the exit status is 0.
"""

from pathlib import Path

from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import StageSettings
from utils.defaults import COS_SIM_LOW, GAMMA, MIN_IMAGES, ONLY_CORRECT, TAU, P

PAIRS = Path(__file__).parent.parent / "paper_pairs.txt"
COSINES = COS_SIM_LOW, GAMMA
COSINE_OF = {(522, 62, 687): 0.4963}
CLOSE = 0.001  # other versions of a JPEG library change the fourth digit


def get_args_parser():
    parser = Parser(__doc__)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser)
    flags.add_network_flags(parser)
    return parser


def settings_from(args, _):
    flags.require(args, "model")
    return flags.settings_of(StageSettings, args)


def compare(asked, found, cosine, shares):
    """Compare public pairs with what was found.

    Parameters
    ----------
    asked : list of (channel, class1, class2)
    found : collection of the same
    cosine : function of a pair
    shares : function of a pair
        In which share of either class's images the channel is relevant.

    Returns
    -------
    list of tuples
        Rows of the table: channel, classes, cosine, public cosine, difference, whether it was found or why not.
    """
    rows = []
    for pair in asked:
        channel, class1, class2 = pair
        own, public, both, reason = cosine(pair), COSINE_OF.get(pair), shares(pair), "yes"
        if pair not in found:
            parts = " and ".join(f"{share:.0%}" for share in both)
            few = f"relevant in {parts} of the images, not {P:.0%}"
            reason = "no: " + (few if min(both) < P else f"cosine not from {COSINES[0]:g} to {COSINES[1]:g}")
        numbers = ("", "") if public is None else (f"{public:.4f}", f"{own - public:+.4f}")
        rows.append((str(channel), f"{class1} / {class2}", f"{own:.4f}", *numbers, reason))
    return rows


def conclusion(rows, num_found):
    """What the table says, in lines."""
    there, differing = sum(row[-1] == "yes" for row in rows), []
    if there < len(rows):
        differing.append(f"{len(rows) - there} public pairs are not among the candidates (the table says why)")
    for channel, classes, own, public, difference, _ in rows:
        if public and abs(float(difference)) > CLOSE:
            differing.append(f"channel {channel}, classes {classes}: cosine {own}, public is {public}")
    return [
        f"{there} of the {len(rows)} public pairs are among the {num_found} candidates of cosine under {COSINES[1]}",
        *(f"differs from the paper: {what}" for what in differing),
        *([] if differing else [f"all that is public is reproduced (the cosine within {CLOSE})"]),
    ]


def print_table(rows):
    header = ("channel", "classes", "cosine", "public", "difference", "candidate")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(5)]
    for row in (header, *rows):
        print("  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def main(settings):
    from utils.images.folders import ClassMap
    from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities
    from utils.store.candidates import pairs_path, read_candidates
    from utils.store.class_statistics import ClassStore
    from utils.store.files import read_json, refuse_differences, run_name
    from utils.store.importance_store import ImportanceStore

    name = run_name(settings.model, settings.layer_of_interest)
    store = ImportanceStore(settings.store_dir, name)
    meta = store.load_meta()
    path = pairs_path(
        settings.output_dir, name, tau=TAU, p=P, cosines=COSINES, only_correct=ONLY_CORRECT, min_images=MIN_IMAGES
    )
    table = read_json(path.with_suffix(".json"), "run get_cosine_similarities.py again")
    origin = {key: meta[key] for key in ("weights_sha256", "layer")}
    refuse_differences(origin, table["settings"], origin, path)
    classes, weight = ClassMap(meta["classes"]), store.read_layer()[0]
    class_store = ClassStore(settings.store_dir, name, meta)
    means, images = (values[0, 0] for values in class_store.require_means())
    relevant = class_store.require_relevant(TAU)[0]

    def cosine(pair):
        return cosine_similarities(averaged_relevance_vectors(weight[pair[0]], means[list(pair[1:])]))[0, 1].item()

    def shares(pair):
        return [(relevant[output, pair[0]] / images[output]).item() for output in pair[1:]]

    asked = [
        (one.channel, *(output for concept in classes.resolve(one.concepts, meta["num_outputs"]) for output in concept))
        for one in read_candidates(PAIRS).candidates
    ]
    found = {
        (one["channel"], *(output for concept in one["concepts"] for output in concept)) for one in table["candidates"]
    }
    print(f"{meta['model']} with weights {meta['weights']}, {meta['num_images']:,} images, beside the paper's numbers:")
    rows = compare(asked, found, cosine, shares)
    print_table(rows)
    print("\n".join(conclusion(rows, len(found))))


if __name__ == "__main__":
    run(main, get_args_parser(), settings=settings_from, interrupted="nothing was changed")
