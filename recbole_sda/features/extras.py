"""Libraries that only some need, imported when they are."""

import importlib
from types import ModuleType

from recbole_sda.errors import SDAError


def extra(module: str, name: str) -> ModuleType:
    """The library ``module``, which the extra ``name`` installs.

    Raises:
        SDAError: it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SDAError(f"{module} is needed and not installed: pip install 'recbole_sda[{name}]'") from error
