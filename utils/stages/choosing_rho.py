"""Stage 3, the paper's way: inputs are divided by ARVs, at the rho that the concepts' training images choose."""

import torch

from utils.errors import UserError
from utils.method.disentangling import RhoSearch, Split
from utils.networks.arithmetic import network_arithmetic
from utils.networks.recording import Recorder


class ByRho:
    """Divides candidates by Ineq. 5, at the rho of Eq. 6; sees all training images of their concepts.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    objective : str
    precision : str
    """

    split_by, description = "arv", "choosing rho"

    def __init__(self, network, layer, objective, precision):
        self.layer, self.objective, self.precision = layer, objective, precision
        self.source, self._recorder, self._searches = {}, Recorder(network, layer), {}

    def __enter__(self):
        self._recorder.__enter__()
        return self

    def __exit__(self, *error):
        self._recorder.__exit__(*error)

    def wanted(self, indices):
        """Which of the images of a group are to be seen."""
        return indices

    def see(self, candidates, key, pixels):
        """A batch of images of a group, [B, 3, H, W], for the candidates that have it."""
        with network_arithmetic(self.precision, pixels.device):
            x = self._recorder.forward(pixels).input  # may have several rows an image
        for one in candidates:
            search, maps = self._search(one)
            with torch.no_grad():
                search.add(maps(x), torch.full((len(pixels),), one.concept_of(key)))

    def _search(self, candidate):
        """The RhoSearch of a candidate, and the function that applies its rows to the layer's input."""
        if id(candidate) not in self._searches:
            search = RhoSearch(candidate.weight, candidate.bias, candidate.arvs, len(candidate.own_concepts))
            self._searches[id(candidate)] = search, self.layer.maps(search.rows, search.biases)
        return self._searches[id(candidate)]

    def split(self, candidate):
        """The Split of a candidate all images of which have been seen; UserError where rho cannot be chosen."""
        search, _ = self._search(candidate)
        del self._searches[id(candidate)]
        if not search.objectives().isfinite().all():
            what = "is NaN or infinite" if search.has_images() else "has no readable training image of a concept"
            raise UserError(f"rho cannot be chosen: channel {candidate.channel} {what} (concepts {candidate.groups})")
        return Split(
            **candidate.content(),
            owners=search.owners.to(torch.uint8),
            objectives=search.objectives(),
            objective=self.objective,
            rho=search.best(self.objective),
        )
