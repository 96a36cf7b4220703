"""What the command line does with what earlier runs left: a feature store, without RecBole, or a checkpoint."""

import inspect
from collections.abc import Callable, Sequence

from tabulate import tabulate

from recbole_sda.errors import SDAError

CHECKPOINT = ".pth"


def export_vectors(store: str, *, output: str, format: str, model: str = "") -> str:
    from recbole_sda.features.exchange import export_store

    if store.endswith(CHECKPOINT):
        from recbole_sda.serving_files import export_item_embeddings

        tables = export_item_embeddings(store, output, format=format, model=model or None)
        return f"{', '.join(tables)} of {store} as {format}: {output}"
    if model:
        raise SDAError(f"model={model} is of a checkpoint, and {store} is a feature store; leave it out")
    export_store(_open(store), output, format=format)
    return f"{store} as {format}: {output}"


def import_vectors(
    source: str, *, output: str, format: str, ids: str = "", dataset: str = "", dtype: str = ""
) -> str:
    from recbole_sda.features.exchange import import_store

    store = import_store(
        source, output, format=format, ids=ids or None, dataset=dataset or None, dtype=dtype or None
    )
    return f"{store!r}\nuse it with --features={output}"


def verify(store: str) -> str:
    return f"{_open(store, verify=True)!r}\nevery file matches its checksum"


def nearest_items(store: str, *, modality: str, items: str, k: str = "10") -> str:
    from recbole_sda.features.index import nearest

    opened, tokens = _open(store), items.split(",")
    if not k.isdecimal() or not int(k):
        raise SDAError(f"k={k!r} must be a whole number of at least 1")
    found = nearest(opened, modality, tokens, k=int(k))
    rows = [
        [token, opened.tokens[row], f"{cosine:.4f}"]
        for token, neighbours, cosines in zip(tokens, *found, strict=True)
        for row, cosine in zip(neighbours, cosines, strict=True)
        if row >= 0
    ]
    return tabulate(rows, ["item", f"nearest by {modality}", "cosine"], disable_numparse=True)


def recommend_items(
    checkpoint: str,
    *,
    users: str,
    k: str = "10",
    output: str = "",
    exclude_history: str = "True",
    features: str = "",
    data_path: str = "",
    model: str = "",
) -> str:
    if exclude_history not in ("True", "False"):
        raise SDAError(f"exclude_history={exclude_history!r} must be True or False")
    if not k.isdecimal() or not int(k):
        raise SDAError(f"k={k!r} must be a whole number of at least 1")
    from recbole_sda.loading import load
    from recbole_sda.serving import recommendations
    from recbole_sda.serving_files import as_text, check_output, write_recommendations

    if output:
        check_output(output)
    named = None if users == "all" else users.split(",")
    loaded = load(checkpoint, features=features or None, data_path=data_path or None, model=model or None)
    parts = recommendations(loaded, named, k=int(k), exclude_history=exclude_history == "True")
    if not output:
        return as_text(parts)
    write_recommendations(parts, output)
    return f"recommendations of {checkpoint}: {output}"


def report_page(
    result: str,
    *,
    output: str = "",
    items: str = "1000",
    users: str = "6",
    seed: str = "0",
    projection: str = "tsne",
    data_path: str = "",
) -> str:
    from recbole_sda.report.page.write import pictures_of, write_report

    counts = {"items": items, "users": users, "seed": seed}
    for name, count in counts.items():
        if not count.isdecimal():
            raise SDAError(f"{name}={count!r} must be a whole number")
    numbers = {name: int(count) for name, count in counts.items()}
    page = write_report(
        result, output or None, **numbers, projection=projection, data_path=data_path or None
    )
    size, pictures = page.stat().st_size / 2**20, len(pictures_of(page))
    said = f"report of {result}: {page} ({size:.1f} MB), {pictures} pictures of charts beside it"
    return said.encode(errors="replace").decode()  # names of files may hold what is no text


STORE_COMMANDS: dict[str, Callable[..., str]] = {
    "export": export_vectors,
    "import": import_vectors,
    "verify": verify,
    "nearest": nearest_items,
    "recommend": recommend_items,
    "report": report_page,
}


STORE = "saved/features/NAME"
_EXAMPLES = {"recommend": "saved/NAME.pth --users=all", "report": "saved/results/NAME.json"}


def run_store_command(verb: str, subject: Sequence[str], files: Sequence[str], arguments: Sequence[str]) -> str:
    """Returns: what to print.

    Args:
        subject: the path that the command is about.
        arguments: ``--key=value`` for the keywords of the command.

    Raises:
        SDAError: no path, a key that the command does not take, one that it needs.
    """
    command = STORE_COMMANDS[verb]
    keywords = [p for p in inspect.signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = {keyword.name: keyword.default is keyword.empty for keyword in keywords}
    given = _given(verb, arguments)
    unknown = [*(key for key in given if key not in known), *(["config_files"] if files else [])]
    if not subject:
        raise SDAError(f"{verb} needs a path, as in `{verb} {_EXAMPLES.get(verb, STORE)}`")
    if unknown:
        listed = ", ".join(f"--{key}" for key in known) or "nothing"
        raise SDAError(f"{verb} does not know --{unknown[0]}; it takes {listed}")
    if missing := [key for key, needed in known.items() if needed and key not in given]:
        raise SDAError(f"{verb} needs --{missing[0]}=…")
    return command(subject[0], **given)


def _given(verb: str, arguments: Sequence[str]) -> dict[str, str]:
    given = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and equals and key):
            raise SDAError(f"{verb} takes one path and --key=value; it cannot use {argument!r}")
        if key in given:
            raise SDAError(f"--{key} is given twice: {given[key]!r} and {value!r}; keep one")
        given[key] = value
    return given


def _open(path: str, verify: bool = False):
    from recbole_sda.features.store import FeatureStore

    return FeatureStore.open(path, verify=verify)
