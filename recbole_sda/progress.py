"""One progress bar for every long piece of work."""

import sys

from tqdm import tqdm

LOG_SECONDS = 60


def progress_bar(total: int, description: str, unit: str, *, show: bool = True) -> tqdm:
    """A bar with rate and time left; in a log file, where a bar cannot be redrawn, a line a minute."""
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(total=total, desc=description, unit=unit, mininterval=interval, disable=not show)
