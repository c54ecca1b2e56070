"""Stage 2 with several values of its thresholds: against single runs of it, and against loops."""

import csv
import re

import numpy as np
import pytest
import torch

from tests.oracles import average_precision
from tests.scripts import NETWORK, RUN, run_script, stage1
from utils.method.significance import permutation
from utils.report.thresholds import sensitivity_figure, table
from utils.stages import sensitivity as stage
from utils.stages.gamma_diagnostics import clean_split
from utils.stages.relevance import find_classes
from utils.stages.sensitivity import sensitivity
from utils.stages.separation import ValidationInputs
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

COUNTED = {"only_correct": False, "min_images": 1, "only_above_mean": False}
TAUS, PS, GAMMAS = [0.05, 0.1], [0.5, 0.8], [0.3, 0.9]


@pytest.fixture
def stores(copy):
    """A training store, its class store, and the validation images of a val store."""
    stage1("data", "store", "--images", "val", cwd=copy)
    store, val_store = ImportanceStore(copy / "store", RUN), ImportanceStore(copy / "store", RUN, "val")
    meta = store.load_meta()
    val_store.load_meta()
    return store, ClassStore(copy / "store", RUN, meta), ValidationInputs(val_store, [])


def precision_by_hand(found, channel, concepts, validation, permuted):
    """Average precision of each concept of a channel divided at rho = 1, input by input."""
    weight = found.weight[channel, :, 0].double()
    weight = weight[permutation(len(weight), "sensitivity", channel, concepts)] if permuted else weight
    arvs = torch.stack([weight * found.mean_inputs[0, concept, :, 0].mean(0) for concept in concepts])
    values = []
    for k, concept in enumerate(concepts):
        others = [j for j in range(len(concepts)) if j != k]
        taken = torch.stack([(arvs[j] > torch.cat([arvs[:j], arvs[j + 1 :]])).all(0) for j in others]).any(0)
        scores = validation.input_sums @ (weight * ~taken).float()
        own = torch.tensor([target in concept for target in validation.targets.tolist()])
        values.append(average_precision(scores.tolist(), own.tolist()))
    return values


def rows_of(stores, unfinished):
    store, class_store, validation = stores
    asked = {"taus": TAUS, "ps": PS, "gammas": GAMMAS, "counted": COUNTED}
    return sensitivity(store, class_store, **asked, unfinished=unfinished, validation=validation)


def test_each_combination_is_what_a_single_run_finds(stores, tmp_path):
    store, class_store, validation = stores
    rows = rows_of(stores, Unfinished(tmp_path / "x.csv", {}))
    found = [(row["tau"], row["p"], row["gamma"]) for row in rows]
    assert found == [(tau, p, gamma) for tau in TAUS for p in PS for gamma in GAMMAS]
    assert any(row["split"] for row in rows)
    for row in rows:
        found = find_classes(store, class_store, row["gamma"], tau=row["tau"], p=row["p"], **COUNTED)
        pairs = [one for one in found.pairs.rows() if one[3] < row["gamma"]]
        split = [one for one in found.groups.values() if len(one.concepts) > 1]
        assert row["pairs"] == len(pairs) and row["polysemantic"] == len({one[0] for one in pairs})
        assert row["split"] == len(split) and row["concepts"] == sum(len(one.concepts) for one in split)
        clean = [clean_split(found, one.channel, one.concepts) for one in split]
        clean = [value for one in clean if one is not None for value in one]
        assert row["clean"] == pytest.approx(np.mean(clean)) if clean else np.isnan(row["clean"])
        for name, permuted in (("ap", False), ("ap_permuted", True)):
            values = [precision_by_hand(found, one.channel, one.concepts, validation, permuted) for one in split]
            expected = np.nanmean(np.concatenate(values)) if values else np.nan
            assert row[name] == pytest.approx(expected, nan_ok=True)


def test_a_run_that_was_stopped_measures_the_other_combinations(stores, tmp_path, monkeypatch):
    whole = rows_of(stores, Unfinished(tmp_path / "whole.csv", {}))
    measured, unfinished = [], Unfinished(tmp_path / "table.csv", {})

    def stop_at(number):
        def measure(layer_classes, gamma, validation):
            if len(measured) == number:
                raise KeyboardInterrupt
            measured.append(gamma)
            return measure_whole(layer_classes, gamma, validation)

        return measure

    measure_whole = stage._measured
    monkeypatch.setattr(stage, "_measured", stop_at(3))
    with pytest.raises(KeyboardInterrupt):
        rows_of(stores, unfinished)
    monkeypatch.setattr(stage, "_measured", stop_at(None))
    rows = rows_of(stores, unfinished)
    assert len(measured) == len(rows) == 8
    assert str(rows) == str(whole)  # NaN is equal to itself here


def test_stage_2_writes_one_table_and_one_figure_and_no_candidates(copy, with_full_figures):
    flags = ("--store_dir", "store", "--proportion_attribution_required", *TAUS, "--p", *PS, "--cos_sim_high", *GAMMAS)
    result = run_script("get_cosine_similarities.py", *NETWORK, *flags, cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "no separation: it needs a complete val store" in result.stdout
    (path,) = (copy / "results_get_cosine_similarities").glob("*sensitivity*")
    rows = list(csv.DictReader(path.open()))
    assert path.name == f"{RUN}_sensitivity.csv" and len(rows) == 8 and {row["ap"] for row in rows} == {""}
    assert (copy / "plots" / f"{RUN}_sensitivity.png").stat().st_size > 10_000
    assert not list((copy / "results_get_cosine_similarities").glob(f"{RUN}_required0.1*"))


def test_the_val_store_that_is_missing_is_to_be_made_as_the_training_store(tmp_path, copy):
    stage1("data", tmp_path / "other", "--precision", "bf16", "--skip_unreadable", cwd=copy)
    flags = ("--store_dir", tmp_path / "other", "--proportion_attribution_required", *TAUS)
    result = run_script("get_cosine_similarities.py", *NETWORK, *flags, cwd=copy)
    assert result.returncode == 0, result.stderr
    (line,) = re.findall(r"^to make it: (.*)$", result.stdout, re.MULTILINE)
    assert " --precision bf16 --skip_unreadable " in line and line.endswith("--images val")


@pytest.mark.parametrize("more", [("--cos_sim_low", "-1"), ("--plot_wordnet",)])
def test_what_several_values_would_ignore_is_refused(copy, more):
    flags = ("--store_dir", "store", "--p", "0.5", "0.6", *more)
    refused = run_script("get_cosine_similarities.py", *NETWORK, *flags, cwd=copy)
    assert refused.returncode == 2 and f"{more[0]} has no effect with several values of a threshold" in refused.stderr


def test_the_figure_leaves_out_what_was_not_measured():
    row = {"tau": 0.1, "p": 0.5, "gamma": 0.5, "several": 3, "polysemantic": 2, "pairs": 4, "split": 1, "concepts": 2}
    rows = [{**row, "tau": tau, "clean": np.nan, "ap": np.nan, "ap_permuted": np.nan} for tau in (0.1, 0.2)]
    assert [axes.get_title() for axes in sensitivity_figure(rows, "title").axes] == [
        *("channels with a pair under γ", "pairs under γ", "channels of two or more groups"),
    ]
    assert len(sensitivity_figure([{**one, "clean": 0.5} for one in rows], "title").axes) == 4
    headings = [cell.strip() for cell in table(rows).split("\n")[0].strip("|").split("|")]
    assert headings == ["tau", "p", "gamma", "several", "polysemantic", "pairs", "split", "concepts"]
