"""Results: what stage 4 has measured of each split, one file each, from which all tables and summaries are made."""

from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.store.files import read_json, write_json
from utils.store.names import split_name

RESULT_FORMAT = 2


@dataclass
class Results:
    """``results_quantitative/pairs/``: one JSON for each (RUN, channel, concepts, rho, tau).

    A result is a dictionary: what was measured (``run``, ``layer``, ``channel``, ``concepts``, ``concept_names``,
    ``cosines``, ``rho``, ``tau`` ...) and ``images``, for each concept what was kept of its images.
    """

    output_dir: Path

    def __post_init__(self):
        self.folder = Path(self.output_dir) / "results_quantitative"

    def path(self, result):
        name = split_name(result["run"], result["channel"], result["concepts"])
        return self.folder / "pairs" / f"{name}_rho{result['rho']}_required{result['tau']}.json"

    def read_all(self):
        """All results, the newest of each (RUN, channel, concepts, tau) where there are several rho."""
        newest = {}
        for path in sorted((self.folder / "pairs").glob("*.json")):
            advice = "delete it and evaluate the split again"
            result = read_json(path, advice)
            if result.get("format") != RESULT_FORMAT:
                raise UserError(f"{path} is of another version of this program: {advice}")
            key = (result["run"], result["channel"], str(result["concepts"]), result["tau"])
            if key not in newest or newest[key]["evaluation"] < result["evaluation"]:
                newest[key] = result
        return [newest[key] for key in sorted(newest)]

    def check(self, run, weights_sha256):
        """Refuse to mix results of different weights under one RUN."""
        if any(result["run"] == run and result["weights_sha256"] != weights_sha256 for result in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def write(self, results):
        """Write results; ``evaluation`` counts up."""
        evaluation = max((result["evaluation"] for result in self.read_all()), default=0) + 1
        for result in results:
            write_json(self.path(result), {"format": RESULT_FORMAT, **result, "evaluation": evaluation})
