"""Settings of stage 2 that choose among its runs, in commands that are printed."""

from utils.command_line.commands import STAGE3, next_command
from utils.command_line.earlier_settings import choosing_flags
from utils.command_line.settings import ResultSettings
from utils.store.stage_two_runs import write_stage_two_run

STORED = {"layer": "last", "weights_sha256": "0" * 64}
RUN = {**STORED, "tau": 0.03, "p": 0.75, "only_correct": False, "min_images": 1, "only_above_mean": False}


def test_a_command_names_what_chooses_among_several_runs_even_at_its_default(tmp_path):
    settings = ResultSettings(model="net", store_dir=str(tmp_path))
    write_stage_two_run(tmp_path, "net", RUN, [3])
    assert choosing_flags(settings, "net", STORED) == []
    write_stage_two_run(tmp_path, "net", {**RUN, "tau": 0.01, "only_correct": True}, [3])
    write_stage_two_run(tmp_path, "net", {**RUN, "tau": 0.02, "layer": "another"}, [3])
    flags = choosing_flags(settings, "net", STORED)
    assert flags == ["proportion_attribution_required", "only_correct"]
    command = next_command(STAGE3, settings=settings, known=RUN, told_apart=flags)
    assert "--proportion_attribution_required 0.03 --no-only_correct" in command
    assert "--p" not in command.split()
