"""What a check found, in words: problems, warnings, and the page that is printed.

A problem loses data in a run: files that are refused, items that nothing is known of although somebody touched
them, interactions that RecBole refuses or drops. A warning is what a user should know and may well intend.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from tabulate import tabulate

_BAR = 40
_REPEATED = "with the same user and item as an earlier one"
# Seconds and milliseconds since 1970 that lie between 1980 and 2100; other times are printed as they are.
_SECONDS, _MILLISECONDS = (315_532_800, 4_102_444_800), (315_532_800_000, 4_102_444_800_000)


def problems(report: Mapping) -> list[str]:
    faults = report["interactions"]["faults"]
    found = [f"{_counted(one['count'], 'interaction')}: {cause}" for cause, one in faults.items()]
    for modality, files in report["files"].items():
        if refused := sum(one["count"] for one in files["refused"].values()):
            found.append(f"{modality}: {refused:,} refused")
    if bare := report["together"]["none"]["items_with_interactions"]:
        filtered = "; counted before the filters, which may leave them out anyway" if report["filters"] else ""
        nothing = f"with interactions and nothing of {', '.join(report['modalities'])}"
        found.append(f"{_counted(bare, 'item')} {nothing}{filtered}")
    return found


def warnings(report: Mapping) -> list[str]:
    items, texts = report["items"], report["texts"]
    counts = {
        ("item", "of the interactions without a row in .item"): items["without_a_row"]["count"],
        ("item", "without interactions"): items["without_interactions"]["count"],
        ("interaction", _REPEATED): report["interactions"]["repeats"],
    }
    for modality, one in report["modalities"].items():
        counts["item", f"without {modality}"] = items["items"] - one["items"]
    for modality, files in report["files"].items():
        counts["item", f"with the same {modality} as another"] = files["duplicates"]["items"]
        counts["second file", f"of an item, not used: {modality}"] = files["second_files"]["count"]
    if texts:
        counts["item", "with the same text as another"] = texts["duplicates"]["items"]
        counts["text", "over the tokenizer's limit"] = (texts["tokens"] or {}).get("over_limit") or 0
    found = [f"{_counted(count, noun)} {rest}" for (noun, rest), count in counts.items() if count]
    if report["interactions"]["time_span"] is None:
        found.append("there are no timestamps to order interactions by")
    return found


def as_text(report: Mapping) -> str:
    """The page."""
    parts = [_interactions(report), _popularity(report["popularity"]), _items(report)]
    parts += [_files(modality, files) for modality, files in report["files"].items()]
    if report["texts"]:
        parts.append(_texts(report["texts"]))
    parts += [_listed(f"{title}:", report[title]) for title in ("problems", "warnings") if report[title]]
    verdict = "would lose data" if report["problems"] else "loses no data"
    return "\n\n".join([*parts, f"a run on {report['dataset']} {verdict}"])


def _interactions(report: Mapping) -> str:
    found, filters = report["interactions"], report["filters"]
    rows = [[f"{a} {who}", *found[f"per_{who}"].values()] for a, who in (("a", "user"), ("an", "item"))]
    lines = [
        f"{report['dataset']}: {_counted(found['users'], 'user')}, {_counted(found['items'], 'item')}, "
        f"{_counted(found['interactions'], 'interaction')}; sparsity {found['sparsity']:.4%}",
        tabulate(rows, ["interactions", *found["per_user"]], floatfmt=",.1f"),
        f"{_counted(found['repeats'], 'interaction')} {_REPEATED}",
        _time_span(found["time_span"]),
    ]
    if filters:
        lines.append(
            "a run filters them further: " + ", ".join(f"{key}={value}" for key, value in filters.items())
        )
    if found["faults"]:
        lines.append(
            _causes(f"rows at fault ({found['lost']:,} of them count as no interaction):", found["faults"])
        )
    return "\n".join(lines)


def _time_span(span: tuple[float, float] | None) -> str:
    if span is None:
        return "no timestamps"
    first, last = span
    for unit, (earliest, latest) in ((1, _SECONDS), (1000, _MILLISECONDS)):
        if earliest <= first and last <= latest:
            days = [datetime.fromtimestamp(time / unit, UTC).strftime("%Y-%m-%d") for time in span]
            return f"from {days[0]} to {days[1]} (timestamps {first:.0f} to {last:.0f})"
    return f"timestamps from {first:g} to {last:g}"


def _popularity(found: Mapping) -> str:
    rows = [
        [f"top {percent} %", f"{share:.1%}", "#" * round(_BAR * share)] for percent, share in found["top"].items()
    ]
    table = tabulate(rows, ["items", "interactions", ""], colalign=("right", "right", "left"))
    return f"{table}\nGini coefficient {found['gini']:.3f}"


def _items(report: Mapping) -> str:
    items, together = report["items"], report["together"]
    shown = [
        *((f"with {modality}", one) for modality, one in report["modalities"].items()),
        *([("with all of these", together["all"])] if len(report["modalities"]) > 1 else []),
        ("with nothing", together["none"]),
    ]
    rows = [
        [name, f"{one['items']:,}", f"{one['share']:.1%}", f"{one['share_of_interactions']:.1%}"]
        for name, one in shown
    ]
    lines = [
        f"{_counted(items['items'], 'item')} in .inter or .item, {items['with_a_row']:,} in .item",
        tabulate(rows, ["", "items", "of all", "of interactions"], disable_numparse=True, stralign="right"),
    ]
    for key, name in (("without_a_row", "in .inter only"), ("without_interactions", "without interactions")):
        if items[key]["count"]:
            lines.append(f"{items[key]['count']:,} {name}: {_some(items[key])}")
    return "\n".join(lines)


def _files(modality: str, files: Mapping) -> str:
    lines = [f"{modality}: {_duplicates(files['duplicates'], 'file')}"]
    if files["refused"]:
        lines.append(_causes("  refused:", files["refused"]))
    if (second := files["second_files"])["count"]:
        lines.append(f"  {_counted(second['count'], 'second file')} of an item: {_some(second)}")
    return "\n".join(lines)


def _texts(texts: Mapping) -> str:
    left_out = f"; columns left out: {', '.join(texts['columns_left_out'])}" if texts["columns_left_out"] else ""
    cut = [
        f"{name} {one['items']:,} over {one['characters']:,}" for name, one in texts["cut"].items() if one["items"]
    ]
    return "\n".join(
        [
            f"text: {', '.join(texts['fields']) or '(no fields)'}{left_out}",
            f"  {_duplicates(texts['duplicates'], 'text')}",
            f"  words: {_lengths(texts['words'])}",
            f"  values that the prompt cuts, in characters: {', '.join(cut) or 'none'}",
            f"  {_tokens(texts['tokens'])}",
        ]
    )


def _tokens(tokens: Mapping | None) -> str:
    if tokens is None:
        return "tokens: not counted; --tokenizer=FOLDER_OR_NAME does, --tokenizer=tiny with the built-in one"
    limit = f"{tokens['over_limit']:,} over {tokens['limit']:,}" if tokens["limit"] else "no limit is known"
    return f"tokens of the prompt, by {tokens['tokenizer']}: {_lengths(tokens)}; {limit}"


def _lengths(found: Mapping | None) -> str:
    return f"median {found['median']:,.0f}, 95 % {found['p95']:,.0f}, max {found['max']:,}" if found else "none"


def _duplicates(found: Mapping, noun: str) -> str:
    if not found["items"]:
        return f"no two items have equal {noun}s"
    examples = "; ".join(_some(one) for one in found["examples"])
    more = found["groups"] - len(found["examples"])
    return f"{found['items']:,} items share {_counted(found['groups'], noun)}: {examples}" + (
        f"; {more:,} more" if more else ""
    )


def _causes(title: str, causes: Mapping[str, Mapping]) -> str:
    most_first = sorted(causes.items(), key=lambda item: -item[1]["count"])
    return _listed(title, [f"{one['count']:,} {cause}{_such_as(one['examples'])}" for cause, one in most_first])


def _such_as(examples: Iterable[str]) -> str:
    return f" ({', '.join(examples)})" if examples else ""


def _listed(title: str, lines: Iterable[str]) -> str:
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    return "\n".join([title, *(indent + line for line in lines)])


def _some(named: Mapping) -> str:
    more = named["count"] - len(named["examples"])
    return ", ".join(named["examples"]) + (f" and {more:,} more" if more else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
