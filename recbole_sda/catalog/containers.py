"""Whether a recording's file holds all that its container promises: decoders fill what is cut off, unsaid."""

from recbole_sda.catalog.files import FileRefused

_UNKNOWN = 0xFFFFFFFF  # the length of a file that was written to a pipe
_TAG_HEADER = 10
_FIRST_FRAME = 200  # bytes in which an MP3's first frame tells the length, if it does


def check_whole(data: bytes) -> None:
    """FileRefused when `data` is a WAV, Ogg or MP3 file whose end is missing, as far as the file can tell."""
    for magic, problem in _PROBLEMS.items():
        if data.startswith(magic) and (reason := problem(data)):
            raise FileRefused(f"truncated: {reason}")


def _riff(data: bytes) -> str:
    declared = int.from_bytes(data[4:8], "little")
    return "" if declared == _UNKNOWN else _shorter(data, declared + 8)


def _ogg(data: bytes) -> str:
    page = data[data.rindex(b"OggS") :]
    if len(page) < 27:
        return "its last page is not whole"
    lengths = page[27 : 27 + page[26]]
    if len(page) < 27 + page[26] + sum(lengths):
        return "its last page is not whole"
    return "" if page[5] & 4 else "its last page is not marked as the end"


def _mp3(data: bytes) -> str:
    start = 0
    if data.startswith(b"ID3"):
        a, b, c, d = data[6:_TAG_HEADER].ljust(4, b"\0")  # seven bits of the tag's size in each
        start = _TAG_HEADER + (a << 21 | b << 14 | c << 7 | d)
    frame = data[start : start + _FIRST_FRAME]
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    if tag < 0 or tag + 16 > len(frame) or not frame[tag + 7] & 2:
        return ""
    position = tag + 8 + (4 if frame[tag + 7] & 1 else 0)  # the number of frames comes before that of bytes
    return _shorter(data, start + int.from_bytes(frame[position : position + 4], "big"))


def _shorter(data: bytes, declared: int) -> str:
    return f"{len(data):,} of {declared:,} bytes" if len(data) < declared else ""


_PROBLEMS = {
    b"RIFF": _riff,
    b"OggS": _ogg,
    b"ID3": _mp3,
    **{bytes([0xFF, second]): _mp3 for second in range(0xE0, 0x100)},
}
