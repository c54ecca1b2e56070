"""How many files somebody has to read who follows a stage from its flags to its file."""

from tests.scripts import CHANNEL, COMPUTE, NETWORK, PAIR, succeed

MOST_FILES = 52  # seven of them load the network that --model names


def test_stage_3_of_one_pair_goes_through_few_files(copy, tmp_path):
    for split in (copy / "store" / "models_disentangled").iterdir():
        split.unlink()
    flags = ("--data_dir", "data", "--store_dir", "store", "--channel_disentangle", str(CHANNEL), *PAIR, *COMPUTE)
    succeed("tests/traced.py", str(tmp_path / "files"), "disentangle_channel.py", *NETWORK, *flags, cwd=copy)
    files = (tmp_path / "files").read_text().split("\n")
    assert {"disentangle_channel.py", "utils/divisions/arv.py", "utils/store/splits.py"} <= set(files)
    assert not {"utils/divisions/least_squares.py", "utils/concept_sources/pure.py"} & set(files)
    assert len(files) <= MOST_FILES, files
