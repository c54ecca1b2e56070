"""Results for people, in the working directory: paths and formats under the names that the paper's users know."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.report.summary import comma_separated, document, included_rows
from utils.store.files import read_json, write_bytes, write_json
from utils.store.names import split_name

PAIR_FORMAT = 2


@dataclass
class PairResults:
    """``results_quantitative/``: one JSON for each (RUN, channel, concepts, rho, tau) in ``pairs/``, and rows and
    summaries made from all of them.
    """

    output_dir: Path

    def __post_init__(self):
        self.folder = Path(self.output_dir) / "results_quantitative"

    def path(self, content):
        name = split_name(content["run"], content["channel"], content["concepts"])
        return self.folder / "pairs" / f"{name}_rho{content['rho']}_required{content['tau']}.json"

    def read_all(self):
        """All evaluations, the newest of each (RUN, channel, concepts, tau) where there are several rho."""
        newest = {}
        for path in sorted((self.folder / "pairs").glob("*.json")):
            advice = "delete it and evaluate the pair again"
            content = read_json(path, advice)
            if content.get("format") != PAIR_FORMAT:
                raise UserError(f"{path} is of another version of this program: {advice}")
            key = (content["run"], content["channel"], str(content["concepts"]), content["tau"])
            if key not in newest or newest[key]["evaluation"] < content["evaluation"]:
                newest[key] = content
        return [newest[key] for key in sorted(newest)]

    def check(self, run, weights_sha256):
        """Refuse to mix results of different weights under one RUN."""
        if any(pair["run"] == run and pair["weights_sha256"] != weights_sha256 for pair in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def write(self, contents):
        """Write pairs' JSON (``evaluation`` counts up) and make all other files anew; return the paths of these."""
        evaluation = max((pair["evaluation"] for pair in self.read_all()), default=0) + 1
        for content in contents:
            write_json(self.path(content), {"format": PAIR_FORMAT, **content, "evaluation": evaluation})
        return [*self._write_rows(), *self.write_summary()]

    def write_summary(self):
        """Write ``summary.csv`` and ``summary.md`` of all pairs; return their paths."""
        pairs = self.read_all()
        if not pairs:
            raise UserError(f"there are no results in {self.folder}: run get_results.py --get_quantitative for a pair")
        texts = {"summary.csv": comma_separated(pairs), "summary.md": document(pairs)}
        for name, text in texts.items():
            write_bytes(self.folder / name, text.encode())
        return [self.folder / name for name in texts]

    def _write_rows(self):
        """Comma-separated fractions without header: one file for each concept, tau and K (and RUN, if several)."""
        pairs = self.read_all()
        several = len({pair["run"] for pair in pairs}) > 1
        files, names = {}, set()
        for pair in pairs:
            suffix = f"_K{len(pair['concepts'])}" if len(pair["concepts"]) > 2 else ""
            for k, images in enumerate(pair["images"], start=1):
                plain = f"quantitative_concept{k}_required{pair['tau']}{suffix}.txt"
                named = f"{pair['run']}_{plain}"
                names |= {plain, named}
                files.setdefault(named if several else plain, []).append(included_rows(images))
        for name, rows in files.items():
            text = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in np.concatenate(rows))
            write_bytes(self.folder / name, text.encode())
        for name in names - set(files):  # the same rows under the name they had when there were fewer RUNs
            (self.folder / name).unlink(missing_ok=True)
        return [self.folder / name for name in sorted(files)]
