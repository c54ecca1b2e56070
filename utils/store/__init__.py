"""The store: paths and formats of everything that one stage leaves for the next.

``from utils.store import split_network`` is what a script of one's own needs.
"""


def __getattr__(name):
    if name == "split_network":  # imported when it is asked for: it takes torch along
        from utils.store.networks import split_network

        return split_network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
