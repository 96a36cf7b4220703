"""How many scans a JPEG file makes its decoder do.

A progressive JPEG comes in scans, each over the whole picture: ten or so in practice. A file may hold
thousands of nearly empty ones, a few hundred bytes each, and keep a decoder busy for hours.
"""

import re

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_ALONE = {0x01, _START, *range(0xD0, 0xD8)}  # markers without a segment
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # FF 00 and restarts belong to a scan


def count_scans(data: bytes) -> int:
    """Scans before the end of the first picture in `data`; 0 when it is no JPEG."""
    if data[:2] != bytes([0xFF, _START]):
        return 0
    count, position = 0, 2
    while marker := _NEXT_MARKER.search(data, position):
        position = marker.end()
        kind = data[position - 1]
        if kind == _END:
            break
        if kind not in _ALONE:
            count += kind == _SCAN
            position += int.from_bytes(data[position : position + 2], "big")
    return count
