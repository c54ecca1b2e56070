"""What the scripts refuse: their usual arguments, and a check of how they refuse others."""

from tests.scripts import CHANNEL, COMPUTE, NETWORK, PAIR, RUN, SMALL_IMAGES, contents, messages, run_script

STAGE1, STAGE2, STAGE3, STAGE4 = (
    *("get_importances_for_classes.py", "get_cosine_similarities.py"),
    *("disentangle_channel.py", "get_results.py"),
)
DATA, STORE = ("--data_dir", "data"), ("--store_dir", "store")
CHUNKS = ("--batch_size", "4", "--chunk_size", "8")
USUAL = {
    STAGE1: (*NETWORK, *DATA, *STORE, *SMALL_IMAGES, *COMPUTE, *CHUNKS),
    STAGE2: (*NETWORK, *STORE),
    STAGE3: (*NETWORK, *DATA, *STORE, *COMPUTE, "--channel_disentangle", CHANNEL, *PAIR),
    STAGE4: (*NETWORK, *DATA, *STORE, *COMPUTE, "--channel_of_interest", CHANNEL, *PAIR),
}
IMPORTANCES = f"store/{RUN}_channel_importances"
SPLIT = f"store/models_disentangled/{RUN}_channel{CHANNEL}_1_3.pt"
MEANS = f"store/results_get_cosine_similarities/{RUN}_class_means.npz"


def refused(script, arguments, message, cwd, **environment):
    """Run a script and check that it is refused as it should be."""
    before = contents(cwd)
    result = run_script(script, *arguments, cwd=cwd, **environment)
    assert result.returncode == 2, result.stderr
    (line,) = messages(result.stderr)
    assert line.startswith(f"{script}: error: ")
    assert message in line
    after = contents(cwd)
    assert before.items() <= after.items()
    assert not [name for name in after if name.endswith(".tmp")]
    return result


def usual(script, *changes):
    """The usual arguments of a script; of a flag given twice the last one counts."""
    return (*USUAL[script], *changes)


NEW = ("--store_dir", "new")
