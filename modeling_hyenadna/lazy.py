"""Packages that import a public name when it is first used (PEP 562).

    __all__ = ["read_bed"]
    on_first_use(globals(), {"read_bed": "intervals"})

So a command loads only the libraries that it needs: Trainer, peft and pandas take seconds.
"""

from importlib import import_module
from typing import Any

__all__ = ["on_first_use"]


def on_first_use(package: dict[str, Any], file_of_name: dict[str, str]) -> None:
    """Give a package the functions `__getattr__` and `__dir__`, which offer the names in `__all__`.

    Args:
        package: Its `globals()`.
        file_of_name: The file that defines a name, without `.py`. A name in `__all__` that is not a
            key is a module of the package.
    """
    path = package["__name__"]
    names = package["__all__"]

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {path!r} has no attribute {name!r}")
        if name not in file_of_name:
            return import_module(f"{path}.{name}")
        return getattr(import_module(f"{path}.{file_of_name[name]}"), name)

    def listing() -> list[str]:
        return sorted({*package, *names})

    package["__getattr__"] = load
    package["__dir__"] = listing
