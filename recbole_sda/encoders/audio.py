"""Recordings at the rate that a model's feature extractor was made for."""

from math import gcd

import numpy as np
from scipy.signal import resample_poly

from recbole_sda.errors import SDAError

# Fewer frames of the spectrogram make one token or none. None would be a prompt without a recording, and with one
# Qwen2-Audio takes the prompt for that of an older processor.
LEAST_FRAMES = 7


def resampled_length(samples: int, rate: int, extractor) -> int:
    """How many samples :func:`resample` makes of so many."""
    return max(-(-samples * extractor.sampling_rate // rate), least_samples(extractor))


def check_lengths(sizes: np.ndarray, extractor) -> None:
    """Args: sizes: (n, 2): samples and rate of each recording.

    Raises:
        SDAError: one is longer than the extractor takes, which would cut it unsaid.
    """
    longest = max((samples / rate for samples, rate in sizes.tolist() if rate), default=0)
    if longest > extractor.chunk_length:
        raise SDAError(
            f"a recording of {longest:.1f} seconds is longer than the {extractor.chunk_length} that "
            f"this backbone takes; set max_audio_seconds={extractor.chunk_length} or less"
        )


def resample(samples: np.ndarray, rate: int, extractor) -> np.ndarray:
    """The recording at the extractor's rate; a very short one goes on in silence.

    Args:
        samples: (n,) float32, mono.
        rate: samples a second.

    Raises:
        SDAError: see :func:`check_lengths`.
    """
    check_lengths(np.array([[len(samples), rate]]), extractor)
    common = gcd(extractor.sampling_rate, rate)
    if rate != extractor.sampling_rate:
        samples = resample_poly(samples, extractor.sampling_rate // common, rate // common).astype(np.float32)
    return np.pad(samples, (0, max(0, least_samples(extractor) - len(samples))))


def least_samples(extractor) -> int:
    return LEAST_FRAMES * extractor.hop_length
