"""Each room brings along what it needs and nothing else; the adapter and the losses serve other people's code."""

import subprocess
import sys

import pytest

HEAVY = {"accelerate", "peft", "ray", "recbole", "transformers"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("recbole_sda", set()),
        ("recbole_sda.alignment", set()),
        ("recbole_sda.adapters", {"accelerate", "peft", "transformers"}),  # the other two come with PEFT
        ("recbole_sda.encoders", {"accelerate", "peft", "transformers"}),
        ("recbole_sda.alignment.trainer", {"accelerate", "peft", "transformers"}),
    ],
)
def test_what_an_import_brings_along(module, allowed):
    code = f"import sys, {module}; print(*{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed
