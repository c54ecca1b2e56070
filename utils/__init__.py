"""The project's package; docs/extending.md lists what each folder contains."""

from pkgutil import extend_path

# A user's own package called utils stays importable, for a network factory in it; where both have a module, ours counts
__path__ = extend_path(__path__, __name__)
