"""A study from its name to its table, plot and JSON."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from recbole_sda import compat

compat.prepare_recbole()

from recbole.utils import init_logger  # noqa: E402

from recbole_sda.artefacts import digest, written_whole  # noqa: E402
from recbole_sda.config import SDAConfig  # noqa: E402
from recbole_sda.errors import SDAError  # noqa: E402
from recbole_sda.idle_keys import check_idle  # noqa: E402
from recbole_sda.prepare import DEMO  # noqa: E402
from recbole_sda.report.environment import run_record  # noqa: E402
from recbole_sda.result_files import check_result_file, write_result  # noqa: E402
from recbole_sda.studies import findings  # noqa: E402
from recbole_sda.studies.arms import Cell, Configs, arms_of, axis_values, backbones_own, naming  # noqa: E402
from recbole_sda.studies.definition import Definition  # noqa: E402
from recbole_sda.studies.measures import MEASURES, known, metric_names, needs_model  # noqa: E402
from recbole_sda.studies.plots import write_study_plot  # noqa: E402
from recbole_sda.studies.reading import presets, read_definition  # noqa: E402
from recbole_sda.studies.records import check_measures  # noqa: E402
from recbole_sda.studies.schedule import measure_cells  # noqa: E402
from recbole_sda.studies.tables import notes, study_markdown, study_text  # noqa: E402

logger = logging.getLogger(__name__)

# These decide how fast a study is, not what comes of it.
MACHINE = ("study_workers", "cpus", "gpus", "ray_address", "use_gpu", "gpu_id", "show_progress", "state")
# By a study, beside what its arms read.
READ = ("study_*", "backbones", "diagnose_*", "seeds", "cpus", "gpus", "ray_address")


def study(
    name: str | None = None,
    dataset: str | None = None,
    config_dict: dict | None = None,
    config_file_list: Sequence[str] | None = None,
    *,
    argv: Sequence[str] = (),
) -> dict:
    """Measure every arm of a study with every seed, compare them, and write a table, a plot and a JSON.

    Args:
        name: of a preset, or a YAML file; see :mod:`recbole_sda.studies.definition`. Without one the presets are
            listed.

    Returns:
        ``study``, ``question``, ``dataset``, ``model`` (None where no recommender is measured), ``seeds``;
        ``stated``: the ``pairs`` and ``claims`` of the study; ``arms``: label → keys; ``figures``: column → what
        it is the mean of; ``axis``, ``control``, ``worlds`` (whether each seed drew one); ``cells``: arm, seed and
        control with their ``figures`` and all that was ``measured``; ``summary``, ``comparisons``, ``claims`` as
        in :mod:`recbole_sda.studies.findings`;
        ``failed``: ``cell`` and ``error`` of each that could not be measured; ``notes``; ``config``, ``versions``,
        ``hardware``; ``seconds`` of this call, ``seconds_measured`` of all that it needed; ``files``. Of no name:
        ``studies``, name → question.

    Raises:
        SDAError: a mistake in the study or in the keys, before any work; nothing could be measured.
    """
    if name is None:
        return _list_presets()
    definition = read_definition(name)
    for pattern in sum(definition.figures.values(), ()):
        known(pattern.partition(".")[0])
    configs = Configs(definition, dataset, config_dict, config_file_list, argv)
    figures, left_out = _measurable(definition, configs)
    definition, without = _decidable(definition, figures)
    left_out += without
    measures = list(dict.fromkeys(pattern.partition(".")[0] for said in figures.values() for pattern in said))
    result_file = check_result_file(configs.base["result_file"])
    arms = [(arm, configs.of(arm)) for arm in arms_of(definition, configs.base)]
    check_idle([config for _, config in arms], read=READ)
    for line in (own := backbones_own(arms)):
        logger.warning("%s", line)  # before hours of training that may be meant for another model's size
    seeds = configs.base["seeds"] or definition.seeds
    on_demo = configs.base["dataset"] == DEMO
    cells = configs.cells(arms, seeds, controls=bool(definition.control) and on_demo)
    _check(cells, measures, figures)
    init_logger(configs.base)

    started = time.monotonic()
    workers = configs.base["study_workers"]
    records, failed = measure_cells(
        *(cells, measures),
        workers=workers,
        name=definition.name,
        check=partial(findings.check_names, figures),
    )
    result = {
        **_heading(definition, configs, arms, seeds, figures, measures),
        **_findings(definition, cells, records, figures),
        "failed": failed,
        "left_out": left_out,
        **run_record([configs.base]),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_measured": findings.seconds(records),
    }
    result["notes"] = [*notes(result), *own, *left_out]
    _write(result, _folder(result, configs.base), result_file)
    logger.info("%s", study_text(result))
    logger.info("written: %s", ", ".join(result["files"].values()))
    return result


def _list_presets() -> dict:
    studies = {name: read_definition(name).question for name in presets()}
    lines = [f"  {name:<14}{question}" for name, question in studies.items()]
    logger.info("%s", "\n".join(["study NAME, or a file of your own (FILE.yaml):", *lines]))
    return {"studies": studies}


def _measurable(definition: Definition, configs: Configs) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The figures that the user wants and the dataset allows, and a line for each that it does not."""
    base, left_out = configs.base, []
    wanted = {known(name) for name in base["study_measures"] or MEASURES}
    figures = {}
    for column, patterns in definition.figures.items():
        measures = {pattern.partition(".")[0] for pattern in patterns}
        if not measures <= wanted:
            continue
        if base["dataset"] != DEMO and any(MEASURES[name].needs_truth for name in measures):
            left_out.append(f"{column}: left out, for only the demo's truth is known")
            continue
        figures[column] = patterns
    if not figures:
        raise SDAError(
            f"study {definition.name} has nothing to measure on {base['dataset']} with study_measures="
            f"{','.join(sorted(wanted))}; its figures are {', '.join(definition.figures)}"
        )
    if needs_model([p.partition(".")[0] for said in figures.values() for p in said]) and not configs.has_model:
        raise SDAError(
            f"study {definition.name} measures a recommender; say --model=SASRec, or leave it out by "
            "--study_measures=alignment,structure,conflict"
        )
    if definition.control and base["dataset"] != DEMO:
        left_out.append("control: left out, for only the demo can be drawn without the signal")
    return figures, left_out


def _decidable(definition: Definition, figures: dict) -> tuple[Definition, list[str]]:
    """Without the claims about a figure that is left out, and a line for each."""
    kept, without = {}, []
    for name, claim in definition.claims.items():
        gone = [figure for figure in (claim.figure, claim.beyond) if figure and figure not in figures]
        if gone:
            without.append(f"claim {name} ({claim.says}): left out, for {' and '.join(gone)} is not measured")
        else:
            kept[name] = claim
    return replace(definition, claims=kept), without


def _check(cells: Sequence[Cell], measures: Sequence[str], figures: dict) -> None:
    """Every arm, in the first seed's world; what stops one of them must not show after hours."""
    for cell in cells:
        if cell.seed == cells[0].seed:
            with naming(cell.arm):
                check_measures(cell.config, measures)
                computed = {"recommender": {"figures": dict.fromkeys(metric_names(cell.config))}}
                findings.check_names(findings.figures_at(figures, cell.arm.x), computed)


def _heading(definition: Definition, configs: Configs, arms, seeds, figures, measures) -> dict:
    base, axis = configs.base, definition.axis
    return {
        "study": definition.name,
        "question": definition.question,
        "dataset": base["dataset"],
        "model": base["model"] if needs_model(measures) else None,
        "seeds": list(seeds),
        "arms": {arm.label: arm.keys for arm, _ in arms},
        "figures": {column: list(patterns) for column, patterns in figures.items()},
        "axis": {"label": axis.label, "values": list(axis_values(definition, base))} if axis else None,
        "control": definition.control,
        "worlds": base["dataset"] == DEMO and "demo_seed" in definition.seed_keys,
        "least_seeds": definition.least_seeds,
        "stated": {
            "pairs": [list(pair) for pair in definition.pairs],
            "claims": {name: asdict(claim) for name, claim in definition.claims.items()},
        },
    }


def _findings(definition: Definition, cells: Sequence[Cell], records: Sequence[dict], figures: dict) -> dict:
    values = findings.Values(cells, records, figures)
    findings.check_found(figures, values)
    measured_cells = [
        {
            **{"arm": cell.arm.label, "line": cell.arm.line, "x": cell.arm.x, "backbone": cell.arm.backbone},
            **{"seed": cell.seed, "control": cell.control},
            "figures": values.of_cell(cell),
            "measured": record,
        }
        for cell, record in zip(cells, records, strict=True)
    ]
    return {
        "cells": measured_cells,
        "summary": findings.summary(values),
        "comparisons": findings.comparisons(definition, values),
        "claims": findings.claims(definition, values),
    }


def _folder(result: dict, config: SDAConfig) -> Path:
    """One for each question, data and settings; a study that is run again writes into the same, however many
    workers it has."""
    keys = ("question", "dataset", "model", "seeds", "arms", "figures", "axis", "control", "stated")
    (said,) = result["config"].values()
    settings = {key: value for key, value in said.items() if key not in MACHINE}
    name = f"{result['study']}-{digest({**{key: result[key] for key in keys}, 'config': settings})}"
    folder = Path(config["checkpoint_dir"]) / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(result: dict, folder: Path, result_file: Path | None) -> None:
    plots = write_study_plot(result, folder / "study.html")
    result["files"] = {"json": str(folder / "study.json"), "table": str(folder / "study.md")}
    result["files"] |= {path.suffix.removeprefix("."): str(path) for path in plots}
    with written_whole(folder / "study.md") as unfinished:
        unfinished.write_text(study_markdown(result), encoding="utf-8")
    for file in filter(None, (folder / "study.json", result_file)):
        write_result(file, result)
