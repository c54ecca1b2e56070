"""Copies of networks that are not made to be copied, and the hooks of a module.

The module that takes a module's place gets its hooks; a module's copies never do.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from utils.networks.user_code import lacks_memory, user_code

Module = TypeVar("Module", bound=nn.Module)

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def copy_module(module: Module) -> Module:
    """A deep copy of a module: nothing that is done to the copy reaches the original.

    ``copy.deepcopy`` alone fails on a tensor that has a graph (the weight that the old ``weight_norm`` computes) and on
    a lock, an open file and similar objects. The copy has the values of such a tensor. It shares the other objects with
    the original: they do not affect what a network computes, and cannot be copied in any way.

    Raises
    ------
    ValueError
        An object that cannot be copied is deeper than in an attribute of a module, or in a list or dictionary there.
    """
    modules = {id(submodule): submodule for submodule in module.modules()}
    memo: dict[int, Any] = {}
    for submodule in modules.values():
        for value in _attributes(submodule):
            if isinstance(value, torch.Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            elif not _can_be_copied(value, modules):
                memo[id(value)] = value

    def refusal(error: BaseException) -> ValueError:
        reason = str(error).split("\n")[0]
        return ValueError(f"{type(module).__name__} cannot be copied ({type(error).__name__}: {reason})")

    with user_code(refusal):
        return copy.deepcopy(module, memo)


def _attributes(module: nn.Module) -> Iterator[Any]:
    """Every value in a module's attributes but its submodules; those in lists and dictionaries one by one."""
    for name, value in vars(module).items():
        if name == "_modules":
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _can_be_copied(value: Any, modules: Mapping[int, nn.Module]) -> bool:
    try:
        copy.deepcopy(value, dict(modules))  # modules count as copied: the attributes of each are checked separately
    except Exception as error:  # of the user's object, whose class decides what it raises
        if lacks_memory(error):
            raise
        return False
    return True


def without_hooks(module: Module) -> Module:
    """The same module without its hooks: another object with the same parameters, buffers and submodules."""
    bare = copy.copy(module)
    for hooks in HOOKS:
        setattr(bare, hooks, OrderedDict())
    bare._is_full_backward_hook = None
    return bare


def share_hooks(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` run the hooks that are on ``source`` now."""
    for hooks in HOOKS:
        getattr(target, hooks).update(getattr(source, hooks))
    target._is_full_backward_hook = source._is_full_backward_hook
