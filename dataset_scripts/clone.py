"""Imported first by every script: lets the scripts of a clone run before it is installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("recbole_sda") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
