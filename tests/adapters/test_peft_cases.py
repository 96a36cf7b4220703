"""PEFT's own test cases for custom models, run on MoDA in a process of their own: `--peft-tests=FOLDER`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_peft_cases_pass_on_moda(request):
    folder = request.config.getoption("--peft-tests")
    if folder is None:
        pytest.skip("give --peft-tests=FOLDER, an unpacked source distribution of PEFT")
    options = f"-q -p peft_cases -k MoDA -c {os.devnull} --import-mode=importlib --disable-warnings".split()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", folder, "tests/test_custom_models.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), folder])},
        capture_output=True,
        text=True,
    )
    print(result.stdout[-4000:])
    assert result.returncode == 0
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 400
