"""Classes of the user's own, by ``package.module:Class``."""

import os
import sys
from importlib import import_module

from recbole_sda.errors import SDAError


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
