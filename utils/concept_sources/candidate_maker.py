"""What makes Candidates of channels, wherever their concepts come from."""

from utils.defaults import BACKGROUND_NAME
from utils.plugins import later

torch = later("torch")
disentangling = later("utils.method.disentangling")
polysemanticity = later("utils.method.polysemanticity")


class CandidateMaker:
    """What all concepts of a layer's channels have in common: the layer, and the mean over all training images.

    With a background, that mean is one more concept, the last one. ``mean_inputs`` [T, C_in, taps] and ``images`` [T]
    are of the images of each class that count, ``mean_input`` [C_in, taps] of all images.
    """

    def __init__(self, study):
        self.study, self.background = study, study.background
        self.weight, self.bias = study.weight_and_bias
        mean_inputs, images = study.class_store.require_means()
        which = int(study.only_correct)
        self.mean_inputs, self.images = mean_inputs[which, 0], images[which, 0]
        everything, numbers = mean_inputs[0, 0], images[0, 0].double()
        present = numbers > 0
        self.mean_input = torch.einsum("t,tip->ip", numbers[present] / numbers.sum(), everything[present])

    def make(self, channel, concepts):
        """The Candidate of a channel; ``concepts`` are lists of outputs, none where concepts have no labels.

        UserError where there is none.
        """
        raise NotImplementedError

    def closeness(self, candidate):
        """How close the two closest concepts are, as a cosine that is to be below gamma; -1 where that is no matter."""
        return -1.0

    def candidate(self, channel, concepts, arvs, named_by, source):
        """The Candidate of a channel; ``arvs`` [K, C_in] are its Concepts'."""
        weight = self.weight[channel].clone()
        bias = None if self.bias is None else self.bias[channel].clone()
        mean_arv = polysemanticity.averaged_relevance_vectors(weight, self.mean_input[None])[0]
        if self.background is not None:
            concepts = [*concepts, disentangling.Concept(BACKGROUND_NAME, [], kind="background")]
            arvs = torch.cat([arvs, mean_arv[None]])
        positions = self.study.meta["positions"]
        return disentangling.Candidate(
            channel, concepts, weight, bias, positions, arvs, mean_arv, named_by=named_by, source=source
        )
