"""--channel and --top of stage 2: what is printed, the files as ever, and proposals that can be pasted."""

import re
import shlex

import pytest

from tests.oracles import stored_images
from tests.pictures import FOLDERS
from tests.scripts import CHANNEL, COMPUTE, NETWORK, RUN, contents, printed_pairs, run_script, stage2, succeed
from utils.store.importance_store import ImportanceStore

pytestmark = pytest.mark.usefixtures("without_figures")
LOW = ("--cos_sim_low", "-1", "--cos_sim_high", "0.6", "--data_dir", "data")


def channels_by_classes(pairs):
    """The channels of a list of pairs, the one of most pairs first."""
    channels = [pair["channel"] for pair in pairs]
    return sorted(set(channels), key=lambda channel: (-channels.count(channel), channel))


def commands(out):
    """{what for: command} of the last lines; of what comes ``then``, the command before it in front."""
    found, last = {}, None
    for line in out.splitlines():
        match = re.fullmatch(r"(next|then|or [\w ]+): (python .*)", line)
        if match:
            last = f"then, {last}" if match[1] == "then" else match[1]
            found[last] = match[2]
    return found


def paste(command, folder):
    _, script, *arguments = shlex.split(command)
    return succeed(script, *arguments, *COMPUTE, cwd=folder)


def test_a_channel_has_the_shares_that_a_loop_finds_and_its_proposals_run(copy):
    whole = stage2("store", *LOW, cwd=copy)
    before = contents(copy / "results_get_cosine_similarities")
    channel = channels_by_classes(printed_pairs(whole))[0]
    out = stage2("store", *LOW, "--channel", channel, cwd=copy)
    assert contents(copy / "results_get_cosine_similarities") == before  # the files are whole, whatever is printed
    assert not [line for line in out.splitlines() if line.startswith("[")]
    images = stored_images(ImportanceStore(copy / "store", RUN))
    for output, name in enumerate(FOLDERS):
        own = images["relative_importances"][images["targets"] == output, channel].tolist()
        count = sum(value >= 0.05 for value in own)
        row = rf"^ *{count / len(own):.2f} +{count} of {len(own)} +{name} +{output}  "
        row += r"concept \d" if count / len(own) >= 0.5 else "not relevant: share below p 0.5"
        assert (re.search(row, out, re.MULTILINE) is None) == (count == 0)
    (pair, *_) = [one for one in printed_pairs(whole)[::-1] if one["channel"] == channel]
    first, second = pair["class1"], pair["class2"]
    (cosine,) = re.findall(rf"classes (\S+), {FOLDERS[first]} {first} / {FOLDERS[second]} {second}\n", out)
    assert float(cosine) == pytest.approx(pair["cosine_similarity"], abs=6e-4)
    found = commands(out)
    assert set(found) >= {"next", "then, next"}
    words = f"--channel_disentangle {channel} --classes_for_concept1 {first} --classes_for_concept2 {second}"
    assert found["next"].endswith(f"{words} --proportion_attribution_required 0.05 --p 0.5")
    assert f"_channel{channel}_{first}_{second}.pt" in paste(found["next"], copy)
    assert ", tau 0.05" in paste(found["then, next"], copy)
    if "or its groups" in found:
        assert f"_channel{channel}_" in paste(found["or its groups"], copy)
        assert ", tau 0.05" in paste(found["then, or its groups"], copy)
    assert re.search("^open first: ", out, re.MULTILINE)


def test_a_channel_that_is_no_candidate_says_why_and_what_would_make_it_one(copy):
    """At tau 0.2, channel 9 is relevant for all images of bee and one in six of dog."""
    how = ("--proportion_attribution_required", "0.2", "--only_correct", "--min_images", "2", "--data_dir", "data")
    out = stage2("store", *how, "--channel", CHANNEL, cwd=copy)
    assert "\nno candidate: relevant for 1 class, but two are needed; with --p 0.16 there would be two\n" in out
    found = commands(out)
    assert list(found) == ["next", "or with a background", "then, or with a background"]
    assert " --only_correct" in found["next"] and " --min_images 2" in found["next"]
    _, script, *arguments = shlex.split(found["next"])
    assert "\na candidate: relevant for 2 classes\n" in succeed(script, *arguments, cwd=copy)
    assert "concept 2: everything else" in paste(found["or with a background"], copy)
    assert ", tau 0.2" in paste(found["then, or with a background"], copy)


def test_the_best_channels_replace_the_tables_and_leave_the_files_whole(copy):
    whole = stage2("store", *LOW, cwd=copy)
    before = contents(copy / "results_get_cosine_similarities")
    out = stage2("store", *LOW, "--top", "2", cwd=copy)
    assert contents(copy / "results_get_cosine_similarities") == before
    lowest = {}
    for pair in printed_pairs(whole)[::-1]:
        lowest.setdefault(pair["channel"], pair)
    assert printed_pairs(out) == list(lowest.values())[:2]
    assert (
        f"\n2 of {len(lowest)} channels with pairs, in the order of the lowest cosine between two of their classes\n"
        in out
    )
    rows = re.findall(r"^ *(\d+) +-?\d\.\d+ ", out, re.MULTILINE)
    assert [int(channel) for channel in rows] == list(lowest)[:2]
    assert commands(out) == commands(whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--channel", "12"), "--channel 12 is out of range, the layer has channels 0 to 11"),
        (("--channel", "bee"), "--channel: must be a whole number from 0, not 'bee'"),
        (("--top", "0"), "--top: must be a whole number from 1, not '0'"),
        (("--top", "3", "--channel", "2"), "argument --channel: not allowed with argument --top"),
        (("--top", "3", "--p", "0.5", "0.6"), "--top has no effect with several values of a threshold"),
        (("--channel", "0", "--p", "0.5", "0.6"), "--channel has no effect with several values of a threshold"),
    ],
)
def test_what_cannot_be_shown_is_one_line(finished, flags, message):
    where = ("--store_dir", finished / "store", *flags)
    result = run_script("get_cosine_similarities.py", *NETWORK, *where, cwd=finished)
    assert result.returncode == 2 and message in result.stderr and not result.stdout
