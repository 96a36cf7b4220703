"""The recordings of the built-in catalogue: a note whose pitch is the brand, in a rhythm that is the colour."""

import wave
from pathlib import Path

import numpy as np

from recbole_sda.catalog.attributes import ATTRIBUTES

RATE = 16_000  # samples a second
SECONDS = 0.5
PITCHES = {name: 220 * 2 ** (step / 4) for step, name in enumerate(ATTRIBUTES["brand"])}  # hertz
BEATS = {name: 1 + step for step, name in enumerate(ATTRIBUTES["colour"])}  # even strokes in the recording

_OVERTONES = (1.0, 0.4, 0.15)


def play_sound(shown: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """The recording as 16-bit samples, (SECONDS * RATE,), with jitter in pitch, loudness and decay, and noise."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    pitch = PITCHES[shown["brand"]] * rng.uniform(0.99, 1.01)
    note = sum(
        loudness * np.sin(2 * np.pi * (overtone * pitch * time + rng.uniform()))
        for overtone, loudness in enumerate(_OVERTONES, start=1)
    )
    since_stroke = time * BEATS[shown["colour"]] / SECONDS % 1  # in strokes
    stroke = np.exp(-since_stroke * rng.uniform(3, 5))
    sound = rng.uniform(0.4, 0.6) * note * stroke / sum(_OVERTONES) + rng.normal(scale=0.003, size=len(time))
    return np.round(32767 * sound.clip(-1, 1)).astype("<i2")


def write_wave(path: Path, samples: np.ndarray) -> None:
    """Write 16-bit `samples` at `RATE` as a WAV file of one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
