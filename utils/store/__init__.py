"""The store: paths and formats of everything that one stage leaves for the next.

``from utils.store import split_network, stored_transform`` is what a script of one's own needs.
"""


def __getattr__(name):
    if name in ("split_network", "stored_transform"):  # imported when asked for: they take torch along
        from utils.store import networks

        return getattr(networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
