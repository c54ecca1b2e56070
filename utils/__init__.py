"""The project's package, in floors; see docs/method.md for what is where."""

from pkgutil import extend_path

# somebody's own package of this name stays importable for the network factory that is in it; same names inside: ours
__path__ = extend_path(__path__, __name__)
