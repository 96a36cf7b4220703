"""One progress bar for every long piece of work."""

import sys

from tqdm import tqdm

LOG_SECONDS = 60


def progress_bar(total: int, description: str, unit: str, *, show: bool = True, initial: int = 0) -> tqdm:
    """A bar with rate and time left; in a log file, where a bar cannot be redrawn, a line a minute."""
    interval = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(total=total, initial=initial, desc=description, unit=unit, mininterval=interval, disable=not show)
