"""RecBole's params files of hyper-parameter tuning: a line for each key, ``learning_rate choice [0.01,0.005]``.

What RecBole hands to hyperopt means here what it means there: the bounds of ``loguniform`` are exponents of e.
"""

import logging
import math
import re
from pathlib import Path

from recbole_sda.defaults import parse_value
from recbole_sda.errors import SDAError

logger = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<key>[^\s:]+)\s+(?P<kind>[^\s:]+)\s+(?P<arguments>\S.*)")
EXAMPLE = "`learning_rate choice [0.01,0.005]`"


def is_params_file(path: str | Path) -> bool:
    """By its first line with anything on it, which in YAML would have a colon."""
    lines = _lines(path)
    return bool(lines) and _LINE.fullmatch(lines[0][1]) is not None


def read_params_file(path: str | Path) -> dict[str, dict]:
    """Key → ``{kind: arguments}``, as in YAML.

    Raises:
        SDAError: a line is not of the form, or names a key again.
    """
    described = {}
    for number, line in _lines(path):
        found = _LINE.fullmatch(line)
        if found is None:
            raise SDAError(f"space={path}, line {number}: {line!r} is not understood; write {EXAMPLE}")
        key, kind, arguments = found["key"], found["kind"], _arguments(found["arguments"])
        if key in described:
            raise SDAError(f"space={path}, line {number}: {key} is there twice; keep one")
        if kind == "loguniform":
            arguments = _powers_of_e(key, arguments)
        described[key] = {kind: arguments}
    return described


def _arguments(text: str):
    """``[0.01, 0.005]``, or numbers with commas between them."""
    return parse_value(text if text.startswith("[") else f"[{text}]")


def _powers_of_e(key: str, exponents):
    numbers = isinstance(exponents, list) and all(type(number) in (int, float) for number in exponents)
    if not numbers or max(map(abs, exponents), default=0) > 700:  # exp(710) is no number any more
        return exponents
    bounds = [math.exp(number) for number in exponents]
    between = " and ".join(f"{bound:.3g}" for bound in bounds)
    logger.info("space: %s loguniform %s lies between %s", key, exponents, between)
    return bounds


def _lines(path: str | Path) -> list[tuple[int, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SDAError(
            f"space={path} cannot be read: {error.strerror}; name a file, such as "
            "--space=properties/tune/tau_experts.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise SDAError(f"space={path} is no text: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]
