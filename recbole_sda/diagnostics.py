"""What ``diagnose`` can look into: one class a name; making it checks the keys, its ``run`` does the work."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from recbole_sda.artefacts import build_once, digest
from recbole_sda.catalog import Catalog
from recbole_sda.errors import SDAError
from recbole_sda.report.conflict import conflict_table, write_conflict_plot
from recbole_sda.report.conflict_steps import steps_table, write_steps_plot
from recbole_sda.stages import EncoderStages

logger = logging.getLogger(__name__)

# Raise when the same settings would give other numbers, so that old ones are not reused.
CONFLICT_VERSION = 1
ADAPTERS = ("lora", "moda")


@dataclass(frozen=True)
class Conflict:
    """Gradient cosines between the modalities, LoRA and MoDA under the same settings, before and after training.

    Args:
        config: an :class:`~recbole_sda.config.SDAConfig`.

    Raises:
        SDAError: keys that leave nothing to compare.
    """

    config: object

    def __post_init__(self):
        config = self.config
        if config.given("adapter"):
            raise SDAError(
                f"diagnose conflict compares {' and '.join(ADAPTERS)} itself, and adapter={config['adapter']} was "
                "given too; leave adapter out"
            )
        if len(config["modalities"]) < 2:
            raise SDAError(
                f"modalities={','.join(config['modalities'])} leaves no other modality to conflict with; "
                "leave modalities out"
            )

    def run(self, catalog: Catalog) -> dict:
        """Measure, or reuse what was measured; log the table and write the plot.

        Returns:
            ``dataset``, ``seed``, the settings, and ``conflict``: the records of
            :func:`recbole_sda.alignment.conflict.summarize`, each with its ``adapter`` and whether it was
            ``trained``; with ``diagnose_steps`` also ``over_training``: those of
            :meth:`~recbole_sda.stages.EncoderStages.conflict_over_training`, each with its ``adapter``. ``files``
            says where the JSON and the plots are.
        """
        steps = sorted(self.config["diagnose_steps"] or [])
        stages = {name: EncoderStages(self.config.replace(adapter=name), catalog) for name in ADAPTERS}
        for adapter_stages in stages.values():
            adapter_stages.check()
            adapter_stages.check_conflict(steps)
        settings = {
            "version": CONFLICT_VERSION,
            "batches": self.config["diagnose_batches"],
            "num_experts": self.config["num_experts"],
            "adapters": {name: digest(stages[name].settings.adapter) for name in ADAPTERS},
            **({"steps": steps} if steps else {}),
        }
        folder = Path(self.config["checkpoint_dir"]) / "diagnose" / f"conflict-{digest(settings)}"
        built = build_once(folder, lambda unfinished: self._measure(unfinished, stages, settings))
        logger.info("%s %s", "measured" if built else "reused", folder)
        result = json.loads((folder / "conflict.json").read_text(encoding="utf-8"))
        logger.info("%s", conflict_table(result))
        plots = {"html": write_conflict_plot(result, folder / "conflict.html")}
        if steps:
            logger.info("%s", steps_table(result))
            plots["steps_html"] = write_steps_plot(result, folder / "conflict_steps.html")
        plots = {name: str(path) if path else None for name, path in plots.items()}
        return {**result, "files": {"json": str(folder / "conflict.json"), **plots}}

    def _measure(self, folder: Path, stages: dict[str, EncoderStages], settings: dict) -> None:
        records, over_training = [], []
        for trained in (False, True):  # both starts first: what cannot be measured shows before hours of training
            for name in ADAPTERS:
                if trained:
                    over_training += self._over_training(name, stages[name], settings)
                    stages[name].adapt()
                logger.info("%s, %s: gradients", name, "trained" if trained else "start")
                found = stages[name].conflict(trained=trained)
                records += [{"adapter": name, "trained": trained, **record} for record in found]
        keys = ("dataset", "seed", "backbone", "alignment", "align_batch_size")
        result = {**{key: self.config[key] for key in keys}, **settings, "conflict": records}
        if "steps" in settings:
            result["over_training"] = over_training
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "conflict.json").write_text(text + "\n", encoding="utf-8")

    def _over_training(self, name: str, stages: EncoderStages, settings: dict) -> list[dict]:
        if "steps" not in settings:
            return []
        return [{"adapter": name, **record} for record in stages.conflict_over_training(settings["steps"])]


DIAGNOSES = {"conflict": Conflict}
