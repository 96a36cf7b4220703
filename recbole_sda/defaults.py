"""The YAML in ``properties/``: where it lies, how it is read, and the help that its comments give."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import yaml

from recbole_sda.errors import SDAError

_KEY_LINE = re.compile(r"^(?P<key>\w+):(?P<value>.*?)\s+# (?P<help>\((?P<type>\w+)\) .*)$")
_SECTION_LINE = re.compile(r"^# (?P<title>[A-Z].*[^.])$")


class Loader(yaml.SafeLoader):
    """YAML as RecBole's users write it: ``1e-3`` is a number, ``None`` is null, times and dates are text."""


# YAML 1.1 reads 1:30 as a number in base sixty and 2020-01-01 as a date; nobody means that in a configuration.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$""",
        re.X,
    ),
    list("-+0123456789."),
)
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^None$"), ["N"])


def parse_value(text: str):
    """A value from the command line. What is not YAML, such as ``[5,inf)``, stays text."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text


def read_yaml(path: str | Path) -> dict:
    """The keys of a YAML file; an empty file has none.

    Raises:
        SDAError: missing, not YAML, or not a mapping at its top.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Loader)
    except OSError as error:
        raise SDAError(f"configuration file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SDAError(f"configuration file {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise SDAError(f"configuration file {path} holds a {type(content).__name__}; it needs `key: value` lines")
    return content or {}


def properties_folder() -> Path:
    """``properties`` inside the package (a wheel puts it there) or beside it (a clone, an editable install)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(f"properties/overall.yaml is neither in {package} nor beside it; install again")


def read_properties(kind: str, name: str = "") -> dict:
    """Our YAML of a model, dataset or backbone of that name, or ``overall``; empty where we have none."""
    if Path(name).name != name:  # a folder, or a name on the model hub
        return {}
    path = properties_folder() / kind / f"{name}.yaml" if name else properties_folder() / f"{kind}.yaml"
    return read_yaml(path) if path.is_file() else {}


def read_datasets_own(folder: Path) -> dict:
    """The keys of ``dataset/<name>/<name>.yaml``, given ``dataset/<name>``; none where there is no such file."""
    path = folder / f"{folder.name}.yaml"
    return read_yaml(path) if path.is_file() else {}


def over_our_defaults(particular: dict, chosen: dict) -> dict:
    """Our defaults with what a model's or dataset's files say over them.

    What suits a backbone gives way to what suits a model or a dataset, either of which may choose it.

    Args:
        particular: what these files say.
        chosen: what the user says, who may choose the backbone, too.
    """
    overall = read_properties("overall")
    backbone = {**overall, **particular, **chosen}["backbone"]
    return {**overall, **read_properties("backbone", str(backbone)), **particular}


def recbole_properties_folder() -> Path:
    """RecBole's own ``properties``, found without importing RecBole."""
    found = find_spec("recbole")
    if found is None:
        raise SDAError("RecBole is not installed; pip install --no-deps recbole==1.2.1")
    return Path(found.origin).parent / "properties"


def key_types() -> dict[str, str]:
    """Every key of ``overall`` → the type that its comment states."""
    lines = (properties_folder() / "overall.yaml").read_text(encoding="utf-8").splitlines()
    return {match["key"]: match["type"] for line in lines if (match := _KEY_LINE.match(line))}


def help_text() -> str:
    """Every key of ours with its default, from the comments of the YAML."""
    lines = []
    for title, keys in explained_keys():
        lines.append(f"\n{title}")
        lines += [f"  --{key}={default}\n        {text}" for key, default, _, text in keys]
    return "\n".join(lines)


def explained_keys() -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    """Each section's title and its keys: name, default, type, meaning."""
    files = [path for kind in ("*.yaml", "[bmd]*/*.yaml") for path in sorted(properties_folder().glob(kind))]
    for path in files:
        sections = [(f"With --{path.parent.name}={path.stem}", [])]
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := _KEY_LINE.match(line):
                sections[-1][1].append((match["key"], match["value"].strip(), match["type"], match["help"]))
            elif match := _SECTION_LINE.match(line):
                sections.append((match["title"], []))
        if path.stem != "overall" and any(keys for _, keys in sections):  # known datasets explain nothing
            yield sections[0]
        yield from (section for section in sections[1:] if section[1])
