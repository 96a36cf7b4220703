"""Recordings: what a good one sounds like, and every file that is refused, with its reason."""

import importlib.util
import io
import struct

import numpy as np
import pytest

from recbole_sda.catalog import Catalog
from recbole_sda.catalog.audio import decode_recording
from recbole_sda.catalog.files import FileRefused
from recbole_sda.errors import SDAError

soundfile = pytest.importorskip("soundfile")

RATE, PITCH = 16_000, 440
TONE = (0.5 * np.sin(2 * np.pi * PITCH * np.arange(RATE) / RATE)).astype(np.float32)


def encoded(samples, format="WAV", rate=RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, **options)
    return buffer.getvalue()


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


def flac_claiming(samples: int) -> bytes:
    """A FLAC file whose header declares so many samples: 36 bits, the first four of them shared."""
    data = encoded(TONE, "FLAC")
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return patched(data, 18, field.to_bytes(8, "big"))


def loudest_frequency(recording) -> float:
    spectrum = np.abs(np.fft.rfft(recording.samples * np.hanning(len(recording.samples))))
    return float(np.fft.rfftfreq(len(recording.samples), 1 / recording.rate)[spectrum.argmax()])


GOOD = {
    "wav": encoded(TONE),
    "wav-24": encoded(TONE, subtype="PCM_24"),
    "wav-float": encoded(TONE, subtype="FLOAT"),
    "wav-ulaw": encoded(TONE, subtype="ULAW"),
    "wav-extensible": encoded(TONE, "WAVEX"),
    "wav-to-a-pipe": patched(patched(encoded(TONE), 4, b"\xff" * 4), 40, b"\xff" * 4),
    "flac": encoded(TONE, "FLAC"),
    "ogg": encoded(TONE, "OGG"),
    "opus": encoded(TONE, "OGG", subtype="OPUS"),
    "mp3": encoded(TONE, "MP3"),
    "mp3-tagged": b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256) + encoded(TONE, "MP3"),
    "stereo": encoded(np.stack([TONE, TONE], axis=1)),
    "half": encoded(np.stack([2 * TONE, 0 * TONE], axis=1)),
    "html-behind": encoded(TONE, "FLAC") + b"<html>" * 50,
    "44.1": encoded(TONE[: RATE // 2], rate=8_000),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_recordings_come_as_one_channel(name):
    recording = decode_recording(GOOD[name], 30)
    assert recording.samples.dtype == np.float32
    assert recording.samples.ndim == 1
    expected = PITCH / 2 if name == "44.1" else PITCH
    assert abs(loudest_frequency(recording) - expected) < 3
    assert np.median(np.abs(recording.samples)) == pytest.approx(0.5 * np.sqrt(0.5), abs=0.03)
    assert abs(len(recording.samples) / recording.rate - 1) < 0.1


def test_lossless_samples_are_exact_and_channels_averaged():
    samples = np.random.default_rng(0).integers(-32768, 32768, (70_000, 3), dtype=np.int16)  # more than a block
    recording = decode_recording(encoded(samples, "FLAC", rate=48_000), 30)
    assert recording.rate == 48_000
    np.testing.assert_allclose(recording.samples, (samples / 32768).mean(axis=1), atol=1e-6)


def with_value(value, subtype="DOUBLE"):
    samples = TONE.astype(np.float64)
    samples[5] = value
    return encoded(samples, subtype=subtype)


REFUSED = {
    "zero-bytes": (b"", "an empty file"),
    "text": (b"hello" * 100, "cannot be decoded as WAV, FLAC, MP3 or Ogg"),
    "random": (np.random.default_rng(0).bytes(50_000), "cannot be decoded"),
    "aiff": (encoded(TONE, "AIFF"), "not a WAV, FLAC, MP3 or Ogg recording but AIFF"),
    "no-samples": (encoded(TONE[:0]), "zero length"),
    "no-samples-ogg": (encoded(TONE[:0], "OGG"), "zero length"),
    "long": (encoded(np.zeros(31 * RATE)), "31.0 seconds are more than max_audio_seconds=30"),
    "long-packed": (encoded(np.zeros(3_600 * RATE, dtype=np.int16), "FLAC"), "3,600.0 seconds are more"),
    "claims-hours": (flac_claiming(2**35), "seconds are more than max_audio_seconds=30"),
    "claims-nothing": (flac_claiming(0), "does not tell its length"),
    "wav-claims-hours": (patched(encoded(TONE), 4, struct.pack("<I", 2**31)), "truncated: 32,044 of"),
    "nine-channels": (encoded(np.zeros((10, 9))), "9 channels are more than 8"),
    "ten-hertz": (encoded(TONE, rate=10), "10 samples a second are not between 1,000 and 384,000"),
    "nan": (with_value(np.nan), "samples up to nan"),
    "infinite": (with_value(-np.inf), "samples up to inf"),
    "loud": (with_value(1e30), "samples up to 1e+30, where full scale is 1"),
    "wav-cut": (encoded(TONE)[:-1_000], "truncated: 31,044 of 32,044 bytes"),
    "wav-header-only": (encoded(TONE)[:44], "truncated"),
    "flac-cut": (encoded(TONE, "FLAC")[:-1_000], "cannot be decoded"),
    "ogg-cut": (encoded(TONE, "OGG")[:-10], "its last page is not whole"),
    "ogg-page-missing": (GOOD["ogg"][: GOOD["ogg"].rindex(b"OggS")], "its last page is not marked as the end"),
    "mp3-cut": (encoded(TONE, "MP3")[:-10], "truncated"),
    "mp3-tagged-cut": (GOOD["mp3-tagged"][:-10], "truncated"),
    "mp3-noise": (b"\xff\xfb" * 50_000, "cannot be decoded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_recordings_say_why(name):
    data, reason = REFUSED[name]
    with pytest.raises(FileRefused) as caught:
        decode_recording(data, 30)
    assert reason in str(caught.value)
    assert " object at 0x" not in str(caught.value)  # the same words each time


@pytest.mark.parametrize("name", ["long-packed", "claims-hours"])
def test_declared_bombs_are_refused_before_decoding(monkeypatch, name):
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    monkeypatch.setattr(soundfile.SoundFile, "blocks", None)
    with pytest.raises(FileRefused, match="seconds are more"):
        decode_recording(REFUSED[name][0], 30)


def test_the_limit_of_seconds_is_exact():
    assert len(decode_recording(encoded(TONE), 1).samples) == RATE
    with pytest.raises(FileRefused, match=r"1\.0 seconds are more than max_audio_seconds=0\.99"):
        decode_recording(encoded(TONE), 0.99)


@pytest.fixture
def choir(tmp_path):
    (tmp_path / "audio").mkdir()
    for name, data in {**GOOD, **{name: data for name, (data, _) in REFUSED.items()}}.items():
        (tmp_path / "audio" / f"{name}.mp3").write_bytes(data)  # content decides
    (tmp_path / "audio" / "outside.wav").symlink_to("/dev/zero")
    return tmp_path


def open_quietly(folder, tokens, **options):
    return Catalog.open(folder, tokens, modalities=["audio"], show_progress=False, **options)


def test_a_folder_of_recordings(choir, tmp_path):
    tokens = [*GOOD, *REFUSED, "outside", "none"]
    catalog = open_quietly(choir, tokens, index_folder=tmp_path / "index")
    found = {record.item: record.reason for record in catalog.skipped}
    assert set(found) == {*REFUSED, "outside"}
    assert all(reason in found[name] for name, (_, reason) in REFUSED.items())
    assert found["outside"] == "a link out of its folder"
    assert catalog.present("audio").tolist() == [token in GOOD for token in tokens]
    for row in range(len(GOOD)):
        recording = catalog.load("audio", row)
        assert catalog.sizes("audio")[row].tolist() == [len(recording.samples), recording.rate]
    again = open_quietly(choir, tokens, index_folder=tmp_path / "index")
    assert again.skipped == catalog.skipped
    assert again.fingerprint("audio") == catalog.fingerprint("audio")
    assert not open_quietly(choir, ["wav"], max_audio_seconds=0.5).present("audio").any()
    with pytest.raises(SDAError, match=r"item 'nan', audio nan\.mp3: samples up to nan"):
        open_quietly(choir, ["wav", "nan"], strict=True)


def test_without_the_library_only_audio_is_an_error(choir, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "soundfile" else find_spec(name, *a)
    )
    with pytest.raises(SDAError, match=r"'audio' is of kind audio, which needs .*: pip install soundfile"):
        open_quietly(choir, ["wav"])
    Catalog.open(choir, ["wav"], show_progress=False)
