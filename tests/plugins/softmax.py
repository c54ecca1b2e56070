"""A third way of dividing inputs, for the tests: all of it is in this file, as ``utils.divisions.division`` asks for.

Shares of an input are the softmax of the concepts' ARVs there, which are scaled to their largest entry.
"""

from utils.divisions.division import Divider, Division, Rule
from utils.divisions.nulls import SHARES, WEIGHTS
from utils.plugins import Flag, later, positive

torch = later("torch")
polysemanticity = later("utils.method.polysemanticity")

USUAL_SHARPNESS = 3.0


def softmax_shares(arvs, sharpness):
    """Of ARVs [K, ..., C_in], with nothing for the residual: Tensor [K + 1, ..., C_in]."""
    scale = arvs.abs().amax((0, -1), keepdim=True).clamp(min=1e-12)
    shares = torch.softmax(sharpness * arvs.double() / scale, dim=0)
    return torch.cat([shares, torch.zeros_like(shares[:1])])


class Softmax(Division):
    """Shares [K + 1, C_in], and the sharpness that they were made with."""

    name = "softmax"
    words = "softmax of ARVs"
    report_words = "by the softmax of ARVs"
    summary = "softmax (shares by how large ARVs are)"
    suffix_pattern = r"_softmax[0-9.]*"
    flags = (Flag("sharpness", "softmax: of the shares (3)", "sharpness", positive, does="sharpens shares"),)
    nulls = (WEIGHTS, SHARES)
    primary_null = WEIGHTS

    def __init__(self, stored, sharpness):
        self.stored, self.sharpness = stored, sharpness

    @classmethod
    def settings_from(cls, given):
        return {"sharpness": given.get("sharpness", USUAL_SHARPNESS)}

    @classmethod
    def suffix_of(cls, settings):
        sharpness = settings["sharpness"]
        return "_softmax" + ("" if sharpness == USUAL_SHARPNESS else f"{sharpness:g}")

    @classmethod
    def suffix_in_tables(cls, settings):
        return cls.suffix_of(settings)

    @classmethod
    def words_of(cls, settings):
        return f"{cls.words}, sharpness {settings['sharpness']:g}"

    @classmethod
    def flag_words(cls, settings):
        return ["--sharpness", settings["sharpness"]]

    @classmethod
    def describe(cls, settings):
        return f"shares by the softmax of ARVs, sharpness {settings['sharpness']:g}"

    @classmethod
    def divider(cls, settings, network, *, inputs_of, background):
        return SoftmaxDivider(settings["sharpness"])

    @classmethod
    def rule(cls, settings, inputs, rho=None):
        return SoftmaxRule(inputs.means(), settings["sharpness"])

    def shares(self, rho=None):
        return self.stored

    def permuted(self, order):
        return Softmax(self.stored[:, order], self.sharpness)

    def settings(self):
        return {"sharpness": self.sharpness}

    def state(self):
        return {"shares": self.stored, "sharpness": self.sharpness}

    @classmethod
    def from_state(cls, state, arvs):
        return cls(state["shares"], state["sharpness"])

    def kept_apart(self):
        return self.settings()

    def text(self):
        return f"softmax shares of {self.stored.shape[1]} inputs"


class SoftmaxDivider(Divider):
    def __init__(self, sharpness):
        self.sharpness = sharpness

    def divide(self, candidate):
        return Softmax(softmax_shares(candidate.arvs, self.sharpness), self.sharpness)


class SoftmaxRule(Rule):
    def __init__(self, mean_inputs, sharpness):
        self.mean_inputs, self.sharpness = mean_inputs, sharpness

    def shares(self, weights, targets=None):
        arvs = torch.einsum("bit,kit->kbi", weights, self.mean_inputs)
        return torch.stack([softmax_shares(of_unit, self.sharpness) for of_unit in arvs.unbind(1)], dim=1)
