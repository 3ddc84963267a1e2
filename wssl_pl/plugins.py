"""Classes of the user's own by class path: pretext tasks and encoders."""

import importlib
import sys
from pathlib import Path
from typing import TypeVar

from wssl_pl.errors import WSSLError

T = TypeVar("T")


def find_class(parameter: str, path: str, base: type[T]) -> type[T]:
    """Return the subclass of `base` with a class path, such as `mypackage.MyTask`, whose module is imported already.

    Nothing is imported, because class paths also come from checkpoints and configurations of other people.
    `import_class` imports.

    Args:
        parameter: the name of what was given, for the error message.
        path: the class path.
        base: the class of the package that it extends.

    Raises:
        WSSLError: the module is not imported, or has no such class.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise WSSLError(parameter, path, "it is no class path", "give package.module.Class")
    if module not in sys.modules:
        remedy = f"type {parameter}={path} on the command line, or import the module first"
        raise WSSLError(parameter, path, f"its module {module} is not imported", remedy)
    found = getattr(sys.modules[module], name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        wanted = f"{base.__module__.rpartition('.')[0]}.{base.__name__}"
        raise WSSLError(parameter, path, f"{module} has no subclass of {wanted} of that name")
    return found


def import_class(parameter: str, path: str, base: type[T]) -> type[T]:
    """Import the module of a class path from the working directory or the installed packages, and return the class.

    For class paths that the user typed. The module's code runs.

    Raises:
        WSSLError: the module cannot be imported, or has no such class.
    """
    module = path.rpartition(".")[0]
    if module:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # where `python -m` would look; a console script does not
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise WSSLError(parameter, path, f"cannot import {module}: {error}") from None
    return find_class(parameter, path, base)
