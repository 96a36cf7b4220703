"""A small dataset full of hostile files: broken, odd and malicious pictures, links, pipes and texts.

    python tests/catalog/hostile.py FOLDER

writes it as a RecBole dataset into FOLDER, which must be new; RecBole then takes its name from FOLDER's.
"""

import os
import sys
from pathlib import Path

import numpy as np
from hostile_pictures import odd_pictures, plain, refused_pictures, saved

from recbole_sda.catalog.atomic import write_atomic

GOOD = ""  # the expectation for a file that must be kept
PLAIN_ITEMS, USERS = 60, 120

TEXTS = {  # item → its title and whether that counts as a text
    "text-megabyte": ("long " * 200_000, True),
    "text-control": ("one\x00two\x1b[31mthree\x07\tfour\r\nfive\x9b", True),
    "text-html": ("<p onclick=alert(1)>Tom &amp; Jerry</p><script>x</script>", True),
    "text-right-to-left": ("\u202eمرحبا بالعالم\u202c", True),
    "text-emoji": ("👩‍👩‍👧‍👦🏳️‍🌈🎬", True),
    "text-escaped-surrogate": ("\\ud800 \\u0000 %00", True),
    "text-quotes": ('"unclosed, ""twice"" and \'', True),
    "text-template": ("{fields} {0} {domain!r} %s <|im_end|> <|vision_start|>", True),
    "text-combining": ("Z" + "\u0351" * 5_000, True),
    "text-nan": ("NaN", False),
    "text-null": (" null ", False),
    "text-blank": (" \t \u3000\u00a0 ", False),
    "text-invisible": ("\u200b\u200d\u2060\ufeff", False),
}
_PROPERTIES = """\
backbone: tiny
max_pixels: 12544
load_col:
    inter: [user_id, item_id, timestamp]
eval_args:
    split: {'LS': 'valid_and_test'}
    order: TO
    group_by: user
    mode: full
valid_metric: NDCG@10
epochs: 2
"""


def write_hostile_folder(folder: str | Path) -> dict[str, str]:
    """Write the dataset; return for every item with a file a part of the reason it is refused for, or `GOOD`.

    Items whose name starts with `text-` have no file; `TEXTS` says what becomes of them.
    """
    folder = Path(folder)
    images = folder / "images"
    images.mkdir(parents=True)
    name = folder.resolve().name
    expected = {}
    for item, (data, reason) in refused_pictures().items():
        (images / f"{item}.jpg").write_bytes(data)
        expected[item] = reason
    for item, (data, _, _) in odd_pictures().items():
        (images / f"{item}.jpg").write_bytes(data)
        expected[item] = GOOD
    expected |= _write_special_files(images, folder)
    for number in range(PLAIN_ITEMS):
        colour = tuple(int(part) for part in np.random.default_rng(number).integers(0, 256, 3))
        (images / f"plain-{number}.png").write_bytes(saved(plain(colour, size=(60, 40))))
        expected[f"plain-{number}"] = GOOD

    titles = {item: f"item {item}" for item in expected} | {item: title for item, (title, _) in TEXTS.items()}
    write_atomic(folder / f"{name}.item", ["item_id:token", "title:token"], titles.items())
    columns = ["user_id:token", "item_id:token", "timestamp:float"]
    write_atomic(folder / f"{name}.inter", columns, _interactions(list(titles)))
    (folder / f"{name}.yaml").write_text(_PROPERTIES, encoding="utf-8")
    return expected


def _write_special_files(images: Path, folder: Path) -> dict[str, str]:
    secret = folder / "secret.png"
    secret.write_bytes(saved(plain()))
    inside = images / "inside.png"
    inside.write_bytes(saved(plain()))
    irregular = "not a regular file"
    links = {
        "link-inside": (inside.name, GOOD),
        "link-outside": (secret.resolve(), "a link out of its folder"),
        "link-outside-relative": ("../secret.png", "a link out of its folder"),
        "link-to-device": ("/dev/zero", "a link out of its folder"),
        "link-to-password-file": ("/etc/passwd", "a link out of its folder"),
        "link-to-nowhere": ("gone.png", irregular),
        "link-to-itself": ("link-to-itself.png", "cannot be read"),
        "link-to-the-folder": (".", irregular),
    }
    for item, (target, _) in links.items():
        (images / f"{item}.png").symlink_to(target)
    (images / "folder.jpg").mkdir()
    os.mkfifo(images / "pipe.jpg")
    for item in ODD_NAMES:
        (images / f"{item}.PNG").write_bytes(saved(plain()))
    for name in (b"no\xffutf8.jpg", b"line\nbreak.jpg", b"\x1b[2Jterminal.png"):  # of no item
        Path(os.fsdecode(os.fsencode(images) + b"/" + name)).write_bytes(b"x")
    expected = {item: reason for item, (_, reason) in links.items()}
    expected |= {"inside": GOOD, "folder": irregular, "pipe": irregular}
    return expected | dict.fromkeys(ODD_NAMES, GOOD)


ODD_NAMES = ('odd, "name"', "-rf", "ünï🎬", "a.b.c", "..", "%2e%2e", "$(id)", "=1+1", " ")


def _interactions(items: list[str]):
    """Every item is played by someone, every user plays some."""
    rng = np.random.default_rng(0)
    for user in range(USERS):
        own = [items[k] for k in range(len(items)) if k % USERS == user]
        others = [item for item in rng.choice(items, size=7, replace=False).tolist() if item not in own]
        for moment, item in enumerate([*own, *others]):
            yield [f"u{user}", item, str(1_600_000_000 + moment)]


if __name__ == "__main__":
    found = write_hostile_folder(sys.argv[1])
    print(f"{len(found)} items with a file, {sum(reason != GOOD for reason in found.values())} to be refused")
