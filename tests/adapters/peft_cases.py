"""A pytest plugin that puts MoDA in the place of all methods in PEFT's own test cases; see test_peft_cases.py."""

import sys
from unittest.mock import MagicMock

import pytest

from recbole_sda.adapters import MoDAConfig, routing

# PEFT's tests import them; none of the cases for custom models uses them
sys.modules.update(dict.fromkeys(("datasets", "diffusers"), MagicMock()))

from tests import test_custom_models as cases  # noqa: E402  of the folder that the command line names

BOTH = ["lin0", "lin1"]
SETTINGS = {
    "pattern": {"target_modules": "lin0"},
    "one": {"target_modules": ["lin0"]},
    "other": {"target_modules": ["lin1"]},
    "both": {"target_modules": BOTH},
    "all-linear": {"target_modules": "all-linear"},
    "modules_to_save": {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
    "rslora": {"target_modules": BOTH, "use_rslora": True},
    "patterns": {"target_modules": BOTH, "rank_pattern": {"lin1": 4}, "alpha_pattern": {"lin0": 4}},
    "three modalities": {"target_modules": BOTH, "num_experts": 2, "modalities": ["text", "image", "audio"]},
}
PAIRS = {
    "same": ({"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
    "different": ({"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
    "other experts": ({"target_modules": BOTH}, {"target_modules": ["lin0"], "r": 4, "num_experts": 2}),
}
random = {"init_weights": False}

# in place: the parametrisations hold these very lists
cases.TEST_CASES[:] = [(name, "MLP", MoDAConfig, settings) for name, settings in SETTINGS.items()]
cases.ALL_PEFT_CONFIG_CLASSES[:] = [MoDAConfig]
cases.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
    (name, "moda", MoDAConfig, first | random, second | random) for name, (first, second) in PAIRS.items()
]


@pytest.fixture(autouse=True)
def modality():
    with routing("image"):
        yield
