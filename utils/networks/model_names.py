"""What ``--model`` may be, and the name by which a store knows it. Imports no torch.

``timm:NAME`` names a network of timm; ``package.module:function`` and ``path/to/file.py:function`` name a factory,
anything else a network of torchvision.
"""

from pathlib import Path

TIMM = "timm:"  # reserved: a module called timm in the current folder is not looked for


def is_timm(model: str) -> bool:
    """Whether ``--model`` names a network of timm."""
    return model.startswith(TIMM)


def is_factory(model: str) -> bool:
    """Whether ``--model`` names a factory."""
    return ":" in model and not is_timm(model)


def factory_parts(model: str) -> tuple[str, str]:
    """The module or file of a factory, and its function."""
    place, _, function = model.rpartition(":")
    return place, function


def factory_file(model: str) -> Path | None:
    """The file of a factory that ``--model`` names by its file; else None."""
    place, _ = factory_parts(model)
    return Path(place) if is_factory(model) and place.endswith(".py") else None


def model_name(model: str) -> str:
    """The name by which a store knows a model: a file's stem and the function, wherever the file lies."""
    file = factory_file(model)
    return model if file is None else f"{file.stem}:{factory_parts(model)[1]}"


def how_to_call(name: str) -> str:
    """The flag --model for the factory that a store knows by a name: as a module, or by a file of this stem."""
    module, function = factory_parts(name)
    return f"--model {name}" if "." in module else f"--model path/to/{module}.py:{function}"
