"""The variants that ``--compare`` knows: each is a name for a few keys."""

from collections.abc import Mapping

from recbole_sda.errors import SDAError

# Keys that a variant leaves out are as the configuration says: `features` runs the user's own.
VARIANTS = {
    "ids": {"features": "none"},
    "features": {},
    "zero_shot": {"features": "auto", "adapter": "none"},
    "lora": {"features": "auto", "adapter": "lora", "alignment": "cmsa"},
    "info_nce": {"features": "auto", "adapter": "moda", "alignment": "info_nce"},
    "sda": {"features": "auto", "adapter": "moda", "alignment": "cmsa"},
}


def is_own(features: str) -> bool:
    """Whether ``features`` are the user's own, neither made here nor none."""
    return features not in ("auto", "none")


def variant_name(features: str, adapter: str, alignment: str) -> str:
    """What a run with these keys is called in tables: a variant's name, or its parts."""
    if is_own(features):
        return "features"
    for name, keys in VARIANTS.items():
        said = {"features": features, "adapter": adapter, "alignment": alignment}
        if keys and all(said[key] == value for key, value in keys.items()):
            return name
    return f"{adapter}+{alignment.rpartition(':')[2]}"  # a loss of the user's own by its class


def variants_of(values: Mapping) -> dict[str, dict]:
    """What a configuration runs: name → the keys that make the variant."""
    if values["compare"]:
        return {name: {"features": values["features"], **VARIANTS[name]} for name in values["compare"]}
    keys = {key: values[key] for key in ("features", "adapter", "alignment")}
    return {variant_name(**keys): keys}


def embeds(values: Mapping) -> bool:
    """Whether some variant makes its features of the catalogue."""
    return any(keys["features"] == "auto" for keys in variants_of(values).values())


def check_names(names: list[str]) -> None:
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise SDAError(f"compare={','.join(names)}: {unknown[0]!r} is unknown; choose from {', '.join(VARIANTS)}")
    if len(set(names)) < len(names):
        raise SDAError(f"compare={','.join(names)} names a variant twice")
