"""The project's package, in floors; see docs/method.md for what is where."""

from pkgutil import extend_path

# A user's own package called utils stays importable, for a network factory in it; where both have a module, ours counts
__path__ = extend_path(__path__, __name__)
