"""A page of results from the JSON files that `--result_file` wrote: tables, how they came about, what they cost.

    python benchmarks/results_page.py RESULT.json... [--output=results/README.md]

Nothing is measured here. What a file does not say (configuration, versions, hardware, seconds) is left out.
"""

import argparse
import json
from pathlib import Path

from recbole_sda.report.notes import notes
from recbole_sda.report.table import result_tables, title


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--output", type=Path, default=Path("results/README.md"))
    options = parser.parse_args(arguments)
    results = []
    for file in options.files:
        try:
            results.append(json.loads(file.read_text(encoding="utf-8")))
            results[-1]["runs"][0]["test"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            parser.error(f"{file} is not what --result_file writes ({error!r})")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page(results), encoding="utf-8")


def page(results: list[dict]) -> str:
    """Markdown: a chapter for each dataset, a section for each result."""
    parts = ["# Results\n", "Written by `benchmarks/results_page.py` from the JSON of the runs.\n"]
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        parts.append(f"## {dataset}\n")
        parts += [section(result) for result in results if result["dataset"] == dataset]
    return "\n".join(parts)


def section(result: dict) -> str:
    lines = [*notes(result, split=result.get("split", "")), *facts(result)]
    tables = [table.markdown() for table in result_tables(result, k=result.get("k", 10))]
    return "\n".join([f"### {title(result)}\n", *tables, *(f"- {line}" for line in lines), ""])


def facts(result: dict) -> list[str]:
    """Configuration, versions, hardware and time, as far as the result says them."""
    found = []
    for model, config in result.get("config", {}).items():
        said = (f"`{key}={v if isinstance(v, str) else json.dumps(v)}`" for key, v in config.items())
        found.append(f"{model} was told: {', '.join(said) or 'nothing, all defaults'}")
    found += [f"{key}: {_listed(result[key])}" for key in ("versions", "hardware") if result.get(key)]
    if seconds := result.get("seconds"):
        found.append(f"time: {seconds:,.0f} s")
    return found


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


if __name__ == "__main__":
    main()
