"""Item recordings: opened safely, as one channel of float32 samples at their own rate.

A recording must be WAV, FLAC, MP3 or Ogg (judged by content, not by name), declare no more than the limit of
seconds, and decode to its end. A longer one is refused, not cut: half a song is another song. What fails is
refused with a reason, never replaced. The soundfile library decodes; it is needed only where a dataset has
recordings.
"""

import importlib.util
import io
from typing import NamedTuple

import numpy as np

from recbole_sda.catalog.containers import check_whole
from recbole_sda.catalog.files import FileFormat, FileRefused
from recbole_sda.errors import SDAError

EXTENSIONS = ("wav", "flac", "mp3", "ogg")  # in order of preference, when an item has several recordings
MAX_CHANNELS = 8
RATES = (1_000, 384_000)  # hertz, from telephone to studio and beyond
MAX_PEAK = 1e6  # full scale is 1; squares of more leave float32

_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "MP3", "OGG")
_BLOCK = 65_536
_UNKNOWN_FRAMES = 2**62  # libsndfile's count for a FLAC stream of unknown length is larger


class Audio(NamedTuple):
    """A recording in one channel."""

    samples: np.ndarray  # (samples,) float32, full scale is 1
    rate: int  # samples a second


def need_soundfile(modality: str) -> None:
    """SDAError when the library that decodes recordings is not installed."""
    if importlib.util.find_spec("soundfile") is None:
        raise SDAError(
            f"modality {modality!r} is of kind audio, which needs the soundfile library: pip install soundfile"
        )


def decode_recording(data: bytes, max_seconds: float) -> Audio:
    """The recording whose file is `data`, its channels averaged.

    Raises FileRefused with the reason when it is not a good recording of at most `max_seconds`.
    """
    import soundfile

    if not data:
        raise FileRefused("an empty file")
    check_whole(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, max_seconds)
            # Block by block: many channels at once may be more than fits in memory.
            blocks = [block.mean(axis=1) for block in file.blocks(_BLOCK, dtype="float32", always_2d=True)]
            declared, rate = file.frames, file.samplerate
    except FileRefused:
        raise
    except Exception as error:  # the decoders raise several types on a damaged file
        # Without the part of the message that names an object in memory.
        reason = getattr(error, "error_string", error)
        raise FileRefused(f"cannot be decoded as WAV, FLAC, MP3 or Ogg: {reason}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    if len(samples) < declared:
        raise FileRefused(f"truncated: {len(samples):,} of {declared:,} samples")
    peak = np.abs(samples).max()
    if not peak <= MAX_PEAK:
        raise FileRefused(f"samples up to {peak:g}, where full scale is 1")
    return Audio(samples, rate)


def _check_header(file, max_seconds: float) -> None:
    if file.format not in _FORMATS:
        raise FileRefused(f"not a WAV, FLAC, MP3 or Ogg recording but {file.format}")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise FileRefused(f"{file.samplerate:,} samples a second are not between {RATES[0]:,} and {RATES[1]:,}")
    if file.channels > MAX_CHANNELS:
        raise FileRefused(f"{file.channels} channels are more than {MAX_CHANNELS}")
    if file.frames <= 0:
        raise FileRefused("a recording of zero length")
    if file.frames >= _UNKNOWN_FRAMES:
        raise FileRefused("its header does not tell its length; encode it anew")
    if file.frames > max_seconds * file.samplerate:
        seconds = file.frames / file.samplerate
        raise FileRefused(f"{seconds:,.1f} seconds are more than max_audio_seconds={max_seconds:g}")


def _length_and_rate(recording: Audio) -> tuple[int, int]:
    return len(recording.samples), recording.rate


RECORDINGS = FileFormat(
    noun="recordings",
    extensions=EXTENSIONS,
    limit_key="max_audio_seconds",
    decode=decode_recording,
    size=_length_and_rate,
)
