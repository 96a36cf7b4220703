"""Classes of the user's own, by ``package.module:Class``, and what tells two of one name apart."""

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path

from recbole_sda.errors import SDAError

# Whose classes are as their release says; of all others the source is read.
RELEASED = ("abc", "builtins", "recbole", "recbole_sda", "torch", "typing")


def import_named(path: str, *, key: str) -> type:
    """The class that ``package.module:Class`` names.

    Args:
        key: of the configuration, for the error.

    Raises:
        SDAError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # a console script, unlike `python -m`, does not look here
        sys.path.append(os.getcwd())
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SDAError(f"{key}={path!r} cannot be imported: {error}; say package.module:Class") from error


def is_users_own(named: type) -> bool:
    return named.__module__.partition(".")[0] not in RELEASED


def source_digest(named: type, *, key: str) -> str:
    """Of the files of the class's module and of those of its bases that are the user's own.

    Raises:
        SDAError: one of the classes has no file, as in a console; it names the key.
    """
    files = {_file(base, key) for base in named.__mro__ if is_users_own(base)}
    state = hashlib.sha256()
    for file in sorted(files):
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()


def _file(named: type, key: str) -> Path:
    file = getattr(sys.modules.get(named.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        raise SDAError(
            f"{key}: the source of {named.__module__}:{named.__qualname__} cannot be read, so that nobody could "
            "tell when it has changed; write it in a module, a .py file, and import it"
        )
    return Path(file)
