"""Repeated passes over the same images in which only what begins at a layer is computed anew."""

from contextlib import contextmanager
from weakref import ref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Replay:
    """Gives the logits of some images again and again, and computes anew only what begins at a module.

        behind = Replay(network, layer.module, images)
        logits = behind()

    Made by one pass over the images. The modules that end before ``module`` begins, and lie outside of each other,
    return what they returned then, call by call. ``module`` and everything behind it is computed anew, so hooks on it
    and a module that is put in its place do what they do in the network; so are operations between modules, and hooks
    of the remembered ones. A tensor that nothing but remembered modules received is not kept: of a chain of modules
    that is what the last one returned.

    The whole network is run each time where the remembered outputs do not give the logits of the first pass bit for
    bit (somebody's network may pass on more than its modules return), and where ``module`` begins at once, or never.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen, not compiled. Between the calls it is as it was.
    module : nn.Module
        One of the network's, called once in a pass.
    images : Tensor [B, 3, H, W]
        On the network's device.
    """

    def __init__(self, network, module, images):
        images = images.detach()
        with torch.no_grad():
            recording = _Recording(images)
            logits = recording.run(network, module)
            self._network, self._images, self._outputs = network, recording.images, recording.outputs()
            if not (self._outputs and self._gives(logits)):
                self._images, self._outputs = images, {}

    def __call__(self):
        """The logits [B, outputs], in the caller's mode of gradients and arithmetic (that in which this was made)."""
        with _forwards({module: _returning(module, outputs) for module, outputs in self._outputs.items()}):
            return self._network(_tensors(self._images))

    @property
    def num_bytes(self):
        """The memory that the remembered tensors take."""
        kept = tree_leaves([self._images, *self._outputs.values()])
        tensors = [one.value if isinstance(one, _Remembered) else one for one in kept]
        return sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))

    def _gives(self, logits):
        try:
            return torch.equal(self(), logits)
        except Exception:  # whatever somebody else's network raises where a tensor has no values
            return False


class _Remembered:
    """A tensor of the first pass: its values when an operation outside of the remembered modules first read it."""

    def __init__(self, tensor):
        self.tensor, self.value = ref(tensor), None
        self._like = {"dtype": tensor.dtype, "device": tensor.device}
        self._shape, self._nothing = tensor.shape, torch.nan if tensor.is_floating_point() else 0

    def again(self):
        """The tensor, for the network to change as it likes; without values, NaN, where nothing reads them."""
        if self.value is None:
            return torch.full((), self._nothing, **self._like).expand(self._shape)
        return self.value.clone()


class _Recording(TorchDispatchMode):
    """A pass in which the outputs of modules that end before a module begins are remembered, as far as they are read.

    Modules inside of those, and what is read there, are no matter: neither happens in a replay.
    """

    def __init__(self, images):
        super().__init__()
        self._tensors, self._calls, self._inside, self._begun = [], [], False, False
        self._given, self.images = images, self._remember(images)

    def run(self, network, module):
        """One pass: the logits."""
        parts = {*module.modules()}
        outside = [one for one in network.modules() if one not in parts and module not in {*one.modules()}]
        with _forwards({**{one: self._watched(one) for one in outside}, module: self._beginning(module)}), self:
            return network(self._given)

    def outputs(self):
        """{module: [output of each remembered call, with _Remembered in place of tensors]}"""
        found = {}
        for module, output in self._calls if self._begun else ():
            found.setdefault(module, []).append(output)
        return found

    def _remember(self, output):
        def remembered(tensor):
            self._tensors.append(_Remembered(tensor))
            return self._tensors[-1]

        return tree_map_only(torch.Tensor, remembered, output)

    def _watched(self, module):
        forward = module.forward

        def call(*args, **kwargs):
            if self._begun or self._inside:
                return forward(*args, **kwargs)
            self._inside = True
            output = forward(*args, **kwargs)
            self._inside = False
            if not self._begun:
                self._calls.append((module, self._remember(output)))
            return output

        return call

    def _beginning(self, module):
        forward = module.forward

        def call(*args, **kwargs):
            if self._inside:  # called by one that it is no part of: nothing that was remembered can be returned
                self._calls.clear()
            self._begun, self._inside = True, False
            return forward(*args, **kwargs)

        return call

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = () if self._inside else tree_leaves((args, kwargs))
        for tensor in (one for one in given if isinstance(one, torch.Tensor)):
            unread = [one for one in self._tensors if one.value is None and one.tensor() is tensor]
            value = tensor.clone() if unread else None  # before the operation, which may change it in place
            for one in unread:
                one.value = value
        return operation(*args, **kwargs)


def _tensors(output):
    """An output of the first pass, with tensors in place of _Remembered."""
    return tree_map_only(_Remembered, _Remembered.again, output)


def _returning(module, outputs):
    """A forward that returns these outputs, one a call, and computes further calls."""
    forward, remaining = module.forward, iter(outputs)

    def call(*args, **kwargs):
        for output in remaining:
            return _tensors(output)
        return forward(*args, **kwargs)

    return call


@contextmanager
def _forwards(forwards):
    """While in the block, the modules {module: forward} have these in place of their own; their hooks stay."""
    own = {module: vars(module)["forward"] for module in forwards if "forward" in vars(module)}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)
        for module, forward in own.items():
            vars(module)["forward"] = forward
