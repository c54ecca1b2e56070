"""The columns of scores in the stored rows of separations and comparisons: what each unit's score is called."""

from dataclasses import dataclass

from utils.divisions.nulls import NULLS, WEIGHTS, Null
from utils.method.ranking import Score


@dataclass(frozen=True)
class ScoredUnit:
    """A unit whose scores a row has, by the end of its columns' names."""

    suffix: str = ""

    @property
    def ap(self) -> str:
        """Column of the average precision against all other images."""
        return f"ap_all{self.suffix}"

    @property
    def pearson(self) -> str:
        """Column of Pearson's correlation with the concept's indicator, 1 for its images and 0 for all others."""
        return f"pearson_all{self.suffix}"

    @property
    def auroc(self) -> str:
        """Column of the area under the ROC curve against all other images."""
        return f"auroc_all{self.suffix}"

    @property
    def auroc_others(self) -> str:
        """Column of the area under the ROC curve against the images of the channel's other concepts alone."""
        return f"auroc_others{self.suffix}"


NEW = ScoredUnit()  # the new channel, c'_k; the matched unit of a comparison
ORIGINAL = ScoredUnit("_original")
IRRELEVANT = ScoredUnit("_irrelevant")
OWN_LOGIT = ScoredUnit("_own_logit")
MEAN_DIFFERENCE = ScoredUnit("_mean_difference")
PROBE = ScoredUnit("_probe")
READOUTS = (MEAN_DIFFERENCE, PROBE)  # linear in the layer's input
OTHER_GROUPINGS = ScoredUnit("_random_groups")  # of the channel's classes


def unit_of(null: Null) -> ScoredUnit:
    """A null of a division: the columns of its means over draws."""
    return ScoredUnit(f"_{null.column}")


# Lists of the scores of single draws
AUROC_DRAWS = f"auroc_{WEIGHTS.draws_column}"
AP_DRAWS: dict[Null, str] = {null: f"ap_{null.draws_column}" for null in NULLS if null.draws_column}


def score_columns(scores: dict[ScoredUnit, Score]) -> dict[str, float]:
    """The columns of a concept's scores [B] against all other images: the means over those that are known."""
    return {
        **{unit.ap: score.ap.nanmean().item() for unit, score in scores.items()},
        **{unit.pearson: score.pearson.nanmean().item() for unit, score in scores.items()},
        **{unit.auroc: score.auroc.nanmean().item() for unit, score in scores.items()},
    }
