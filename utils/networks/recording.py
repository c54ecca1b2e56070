"""Forward passes: what happens at the layer of interest, in which order modules run, and the way on from the layer."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import ref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from utils.errors import UserError


@dataclass
class Record:
    """What a forward pass leaves of the layer of interest.

    ``input`` is the layer's input as it is; ``activation`` [B, C, positions] its output, before anything later,
    ``gradient`` of the images' own logits at the activation (same shape) or None, ``logits`` [B, outputs].
    """

    input: torch.Tensor
    activation: torch.Tensor
    gradient: torch.Tensor | None
    logits: torch.Tensor


class Recorder:
    """Calls a network and gives a Record of each pass; its hook is on the layer while in the ``with`` block.

    All parameters are frozen, so nothing before the layer needs a graph: it begins at the leaf that the hook keeps.
    What goes on is a clone, so that an in-place operation behind the layer spoils neither the leaf nor its gradient.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen.
    layer : Layer of ``network``
    """

    def __init__(self, network, layer):
        self.network, self.layer = network, layer

    def __enter__(self):
        self._input = self._leaf = None
        self._handle = self.layer.module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_):
        self._handle.remove()

    def _keep(self, _, inputs, output):
        self._input = inputs[0].detach().clone()  # the network may go on to change it in place
        self._leaf = output.detach().requires_grad_(torch.is_grad_enabled())
        return self._leaf.clone()

    def forward(self, images):
        """A pass without a graph: a Record without gradient. ``images`` [B, 3, H, W]."""
        with torch.no_grad():
            logits = self.network(images)
        return self._record(None, logits)

    def forward_with_gradient(self, images, targets):
        """A pass, and the gradient of each image's own logit at the layer's output.

        Parameters
        ----------
        images : Tensor [B, 3, H, W]
        targets : LongTensor [B]
            The network output that is each image's own class.

        Returns
        -------
        Record

        Raises
        ------
        UserError
            The logits do not depend on the layer, or the network forbids gradients.
        """
        with torch.enable_grad():
            logits = self.network(images)
            own = logits.gather(1, targets[:, None]).sum()
            if not own.requires_grad:
                raise UserError(
                    "the logits have no gradient at the layer of interest: does anything behind it reach them?"
                )
            (gradient,) = torch.autograd.grad(own, self._leaf)
        return self._record(self.layer.by_position(gradient), logits.detach())

    def _record(self, gradient, logits):
        if self._leaf is None:
            raise UserError(f"the network does not call layer {self.layer.name} by its name: it is kept elsewhere, too")
        record = Record(self._input, self.layer.by_position(self._leaf.detach()), gradient, logits)
        self._input = self._leaf = None  # or the last batch of a pass would stay in memory
        return record


class _Reached(Exception):
    """The network has come to the layer; carries what enters it."""


def layer_input(network, module, images):
    """What enters ``module``, with its graph. The network is stopped there, before it can change it in place."""

    def stop(_, inputs):
        raise _Reached(inputs[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.args[0]
    finally:
        handle.remove()
    raise UserError("the network does not execute the layer of interest")


def require_finite(record, indices, images):
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = [record.input, record.activation, record.logits, *([] if record.gradient is None else [record.gradient])]
    require_finite_values(values, indices, images)


def require_finite_values(values, indices, images):
    """The same, of tensors that have an equal part for each of the images at ``indices``."""
    finite = torch.stack([value.reshape(len(indices), -1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")


# --------------------------------------------------------------------------------------------------------------------
# What a network does with images, module by module: in which order, and with inputs of which shapes.


FLOAT32 = "but images are torch.float32: convert the network with .float() first"


@dataclass
class Trace:
    """What a pass over a noisy and a black image has shown.

    ``calls`` has the name and the input's shape of every module, in order of execution, ``maps`` for every call of a
    convolution how many calls had begun by then and the shape of its output. ``differ`` has for each number N of tokens
    ``[B, N, C]`` which of them [N] were not the same for both images when so many were first seen; ``moved`` is how
    many calls had begun when a module had put tokens in another order, None if none has. ``image_size`` is the side of
    the images in pixels, ``num_outputs`` the number of logits.
    """

    image_size: int
    calls: list = field(default_factory=list)
    maps: list = field(default_factory=list)
    differ: dict = field(default_factory=dict)
    moved: int | None = None
    num_outputs: int | None = None

    IMAGES = 2  # so that the batch's dimension can be told from one of size 1

    def input_shapes(self, name):
        """The shapes of a module's input, one for each call."""
        return [tuple(shape) for called, shape in self.calls if called == name]

    def with_weights(self, modules):
        """Names of the modules that have weights and no children, in order of execution; ``modules`` by name."""
        leaves = [name for name, _ in self.calls if not list(modules[name].children())]
        return [name for name in leaves if any(True for _ in modules[name].parameters())]

    def map_sizes(self, name):
        """Rows and columns of the maps that convolutions have made before a module is called."""
        return {tuple(shape[2:]) for number, shape in self.maps if number <= self._begins(name)}

    def is_in_order(self, name):
        """Whether no module has put tokens in another order before one is called."""
        return self.moved is None or self.moved > self._begins(name)

    def _begins(self, name):
        return [called for called, _ in self.calls].index(name)

    def before(self, name, inputs):
        """Take in what a module is called with."""
        x = inputs[0] if inputs else None
        self.calls.append((name, getattr(x, "shape", ())))
        self._see(x)

    def behind(self, module, inputs, output):
        """Take in what a module has made."""
        if isinstance(module, nn.Conv2d):
            self.maps.append((len(self.calls), output.shape))
        self._see(output)
        if self.moved is None and not any(True for _ in module.parameters()) and _moves(*inputs[:1], output):
            self.moved = len(self.calls)

    def _see(self, x):
        if isinstance(x, torch.Tensor) and x.ndim == 3 and len(x) == self.IMAGES:
            self.differ.setdefault(x.shape[1], (x[0] != x[1]).any(-1))


def trace(network, image_size):
    """The Trace of a network for square images.

    Raises
    ------
    UserError
        It cannot take such images, or is no classifier.
    """
    traced, hooks = Trace(image_size), []
    noise = torch.randn(3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: traced.before(name, inputs)))
        hooks.append(module.register_forward_hook(traced.behind))
    try:
        with torch.no_grad():
            logits = network(torch.stack([noise, torch.zeros_like(noise)]))
    except Exception as error:  # whatever somebody else's network raises
        types = {value.dtype for value in network.parameters()}
        if types and torch.float32 not in types:
            raise UserError(f"the network's weights are {types.pop()}, {FLOAT32}") from error
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"the network cannot take images of {image_size}x{image_size} pixels: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError("the network is no classifier: its output is not one row of logits an image")
    traced.num_outputs = logits.shape[1]
    return traced


def _moves(x=None, output=None):
    """Whether an output has the input's tokens ``[B, N, C]`` in another order."""
    if not all(isinstance(one, torch.Tensor) and one.ndim == 3 and one.dtype == torch.float32 for one in (x, output)):
        return False
    if x.shape != output.shape or torch.equal(x, output):
        return False
    return torch.equal(digests(x[0]).sort().values, digests(output[0]).sort().values)


def digests(tokens):
    """A number for each of some tokens ``[n, C]``, equal for equal bits."""
    factors = torch.randint(2**62, (tokens.shape[1],), generator=torch.Generator().manual_seed(0))
    return (tokens.contiguous().view(torch.int32).long() * (2 * factors + 1)).sum(1)


# --------------------------------------------------------------------------------------------------------------------
# Running again only what is behind a layer: what the network does before it is done once for some images.


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
