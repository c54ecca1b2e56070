"""Copies of networks that are not made to be copied, and what becomes of the hooks of a module."""

import copy
from collections import OrderedDict

import torch


def copy_module(module):
    """A deep copy of a module: nothing that is done to the copy reaches the original.

    ``copy.deepcopy`` alone stops at a tensor with a graph behind it (the weight that the old ``weight_norm`` computes)
    and at a lock, an open file or the like. Of the first the copy has the values. The second is shared with the
    original: it is no part of what a network computes, and there is no other way to give it to the copy.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        What cannot be copied is deeper than in an attribute of a module, or in a list or dictionary there.
    """
    modules = {id(one): one for one in module.modules()}
    memo = {}
    for one in modules.values():
        for value in _held_by(one):
            if isinstance(value, torch.Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            elif not _can_be_copied(value, modules):
                memo[id(value)] = value
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever somebody else's objects raise
        reason = str(error).split("\n")[0]
        raise ValueError(f"{type(module).__name__} cannot be copied ({type(error).__name__}: {reason})") from error


def _held_by(module):
    """Everything in a module's attributes but its submodules, one by one."""
    for name, value in vars(module).items():
        if name == "_modules":
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _can_be_copied(value, modules):
    try:
        copy.deepcopy(value, dict(modules))  # modules count as copied: each is asked for itself
    except Exception:  # whatever somebody else's objects raise
        return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# Hooks of a module: they belong to whatever takes its place, never to its copies.


HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_hooks", "_backward_pre_hooks"),
)


def without_hooks(module):
    """The same module without its hooks: another object with the same parameters, buffers and submodules."""
    bare = copy.copy(module)
    for hooks in HOOKS:
        setattr(bare, hooks, OrderedDict())
    bare._is_full_backward_hook = None
    return bare


def share_hooks(module, other):
    """Let ``other`` run the hooks that are on ``module`` now."""
    for hooks in HOOKS:
        getattr(other, hooks).update(getattr(module, hooks))
    other._is_full_backward_hook = module._is_full_backward_hook
