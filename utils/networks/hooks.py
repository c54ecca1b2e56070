"""Hooks of a module: they belong to whatever takes its place, never to its copies."""

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_hooks", "_backward_pre_hooks"),
)


def remove_hooks(module):
    for hooks in HOOKS:
        getattr(module, hooks).clear()


def share_hooks(module, other):
    """Let ``other`` run the hooks that are on ``module`` now."""
    for hooks in HOOKS:
        getattr(other, hooks).update(getattr(module, hooks))
    other._is_full_backward_hook = module._is_full_backward_hook
