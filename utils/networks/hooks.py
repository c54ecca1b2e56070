"""Hooks of a module: they belong to whatever takes its place, never to its copies."""

import copy
from collections import OrderedDict

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
