"""One arm with one seed, ready to be measured."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recbole_sda.artefacts import digest
from recbole_sda.config import SDAConfig
from recbole_sda.fingerprints import features_identity
from recbole_sda.plans import Plan, make_plans, open_catalog
from recbole_sda.prepare import prepare_dataset
from recbole_sda.recommend import item_tokens, load_catalogue
from recbole_sda.stages import EncoderStages
from recbole_sda.variants import is_own


@dataclass(frozen=True)
class Bench:
    """One arm with one seed, its dataset in place, and what can be made of it.

    Attributes:
        config: with the keys of the arm, the seed and the control in place.
        plan: of its recommender; None where none is measured.
        stages: that embed the catalogue; None for an arm that does not.
    """

    config: SDAConfig
    plan: Plan | None
    stages: EncoderStages | None

    @classmethod
    def prepare(cls, config: SDAConfig, *, with_model: bool) -> "Bench":
        """Raises: SDAError: a mistake that would stop the arm later."""
        prepare_dataset(config)
        if with_model:
            (plan,) = make_plans([config])
            return cls(config, plan, plan.stages)
        if config["features"] != "auto":
            return cls(config, None, None)
        stages = EncoderStages(config, open_catalog(config, item_tokens(load_catalogue(config))))
        stages.check()
        return cls(config, None, stages)

    @property
    def adapts(self) -> bool:
        return self.stages is not None and self.config["adapter"] != "none"

    @property
    def data_folder(self) -> Path:
        return Path(self.config["data_path"])

    @cached_property
    def features(self) -> str | dict:
        """Digest of the feature store; of the user's own what they hold; ``none`` without."""
        if self.stages:
            return digest(self.stages.settings.features)
        own = self.plan is not None and is_own(self.plan.config["features"])
        return features_identity(self.plan.config) if own else str(self.config["features"])
