"""The recommenders that RecBole does not bring: ours, and those of the user's own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from recbole_sda.errors import SDAError
from recbole_sda.model.slmrec import SLMRec
from recbole_sda.model.slots import REFUSED, SLOTS, Slots
from recbole_sda.model.vbpr import VBPR
from recbole_sda.own_classes import import_named, is_users_own, source_digest

OWN_MODELS: dict[str, type] = {"SLMRec": SLMRec, "VBPR": VBPR}
_defaults: dict[str, dict] = {}


def register_model(model_class: type, *, slots: Slots | None = None, defaults: Mapping | None = None) -> type:
    """Make a RecBole model class known by its name, for ``run``, for checkpoints and in configurations.

    ``--model=package.module:Class`` does this on the command line, with the class's attributes ``slots`` and
    ``defaults`` where it has them.

    Args:
        model_class: a subclass of one of RecBole's recommenders.
        slots: where it keeps its items; by default one table, ``item_embedding``.
        defaults: its keys, each with its default.

    Returns:
        The class.

    Raises:
        SDAError: another model has this name.
    """
    name = model_class.__name__
    known = OWN_MODELS.get(name)
    if (name in SLOTS or name in REFUSED) and not (known and known.__module__ == model_class.__module__):
        raise SDAError(f"model={name!r} is the name of another model; call the class something else")
    OWN_MODELS[name] = model_class
    SLOTS[name] = slots or getattr(model_class, "slots", Slots())
    _defaults[name] = dict(defaults or getattr(model_class, "defaults", {}))
    return model_class


class Registration(NamedTuple):
    """What :func:`register_model` was told, for another process.

    Attributes:
        path: ``package.module:Class``.
        slots, defaults: its own.
    """

    path: str
    slots: Slots
    defaults: dict


def check_importable(name: str) -> None:
    """Raises: SDAError: it is registered here, and no other process could import it."""
    model_class = OWN_MODELS.get(name)
    if model_class is not None and model_class.__module__ == "__main__":
        raise SDAError(
            f"model={name} is written in the script or console that was started, which no worker can import; "
            "write it in a module, a .py file, and import it"
        )


def registration(name: str) -> Registration | None:
    """Of a user's model that is registered here; None for all that another process finds by ``name``."""
    model_class = OWN_MODELS.get(name)
    if model_class is None or not is_users_own(model_class):
        return None
    return Registration(_path(model_class), SLOTS[name], _defaults[name])


def make_known(registered: Registration | None) -> None:
    """Register here what was registered in another process; a worker may know it from before, with other slots.

    Raises:
        SDAError: it cannot be imported here.
    """
    if registered is None:
        return
    model_class = OWN_MODELS.get(registered.path.rpartition(":")[2])
    if model_class is None or _path(model_class) != registered.path:
        model_class = import_named(registered.path, key="model")
    register_model(model_class, slots=registered.slots, defaults=registered.defaults)


def import_model(path: str) -> type:
    """Register the class that ``package.module:Class`` names, and return it.

    Raises:
        SDAError: it cannot be imported, or is no recommender of RecBole's kind.
    """
    model_class = import_named(path, key="model")
    if not hasattr(model_class, "calculate_loss") or not hasattr(model_class, "type"):
        raise SDAError(f"model={path!r} is no recommender: it needs RecBole's calculate_loss, predict and type")
    return register_model(model_class)


def model_identity(model_class: type) -> dict:
    """What tells two classes of one name apart: of RecBole's and ours nothing, of the user's own place and source.

    Raises:
        SDAError: the source cannot be read.
    """
    if not is_users_own(model_class):
        return {}
    return {"model_source": [_path(model_class), source_digest(model_class, key="model")]}


def own_defaults(name: str) -> Mapping:
    """The keys of a registered model, with their defaults; empty for all other models."""
    return MappingProxyType(_defaults.get(name, {}))


def own_keys() -> set[str]:
    """The keys of all registered models."""
    return {key for defaults in _defaults.values() for key in defaults}


def _path(model_class: type) -> str:
    return f"{model_class.__module__}:{model_class.__qualname__}"
