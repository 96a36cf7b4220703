"""The built-in catalogue: drawn products, written titles and users whose tastes are known.

Assumptions of the generator, all of them; settings (`demo_world.World`) are in backticks, with their defaults:

* An item has four hidden factors, drawn independently and uniformly: colour (8), shape (6), pattern (5),
  brand (10). `factors` makes that 1 to 6 of them: a fifth is size (3), a sixth ground (6).
* Its picture shows colour, shape and pattern: one shape on a plain pale ground, with jitter in place, size,
  angle, hue and brightness. Its text tells brand, colour and shape (the shape as a kind of product, the
  colour by one of three words). So only pictures know the pattern, only texts know the brand, and colour and
  shape are shared: that is what an alignment of the two can find. Where size and ground are factors, both tell
  them: the shape's size lies in one of three ranges, the ground's colour in one of six; the title has one of
  three words for the size, the description the name of the ground.
* `image_factors` and `text_factors` choose which factors are told. A picture can never show the brand; a text
  can tell the pattern, too, and is silent about it otherwise. Any other factor that is not told, or that this
  world does not have, can be seen or read all the same (size and ground only where they are factors), but its
  value is drawn independently of everything else: a picture always has some colour, not always the item's.
* `image_signal` is the share of items whose picture shows their own values; the others get a picture of values
  drawn independently of everything else. At 0 a picture tells nothing of its item: the control run.
  `text_signal` is the same for texts, chosen independently of the pictures.
* `noise` (0) is the chance of each pixel of a picture to be replaced by a colour drawn uniformly, and of each
  word of a text, the brand included, by one drawn uniformly from all words that texts use. The number of words
  stays, and at 1 it is all that a text tells. Recordings have no such noise.
* With `audio` there are recordings, too: the brand is the pitch of a note, the colour the number of its strokes.
  So text and sound share the brand, and all three the colour. `audio_signal` is the share of items whose
  recording plays their own values.
* Popularity follows Zipf's law over a random order of the items and depends on no factor. Its exponent is
  `tail_exponent` (0.8); at 0 all items are equally popular.
* A user likes two colours, two shapes, one pattern and two brands (and one size and two grounds where these are
  factors), drawn uniformly, and picks items one after another, none twice, with probability proportional to
  popularity x exp(taste x number of factors liked); `taste` is 2.5. The item's own values count, shown or not.
  The picks are then put in random order: no drift, and only the user's likes link one pick to the next.
* A user picks 5 to 14 items (5 + Binomial(9, 0.4)), at strictly increasing times.
* 2 % of the items have no picture, another 2 % no text, and 2 % of all no recording, whatever their popularity.
* Every part draws from its own random stream, and every item's picture, text and recording from a stream of its
  own: the interactions are the same whatever is shown; an item keeps its picture as long as what the picture
  shows stays; noise changes only the pixels and words that it replaces; recordings change nothing else. With
  another number of factors the items' first factors and their popularity stay, the users' choices do not.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from recbole_sda.catalog.atomic import replacing_folder, write_atomic
from recbole_sda.catalog.attributes import CALLED
from recbole_sda.catalog.demo_plan import Plan, make_plan, named, stream
from recbole_sda.catalog.demo_users import draw_interactions
from recbole_sda.catalog.demo_world import AUDIO, World
from recbole_sda.catalog.drawing import add_noise, draw_picture
from recbole_sda.catalog.sounds import play_sound, write_wave
from recbole_sda.catalog.wording import replace_words, write_text
from recbole_sda.errors import SDAError
from recbole_sda.progress import progress_bar

MARKER = "demo.json"
SHOW_PROGRESS_ITEMS = 5_000  # some ten seconds of drawing


def write_demo(folder: str | Path, **settings) -> Path:
    """Write the dataset `demo` into `folder`, which must be new or empty: demo.inter, demo.item, images/, audio/.

    audio/ only with `audio`. demo.truth.csv tells each item's hidden factors, and whether what its picture, text
    and recording tell is its own, for diagnostics; demo.json the settings, and marks the folder as made here.

    Args:
        folder: where to.
        settings: of :class:`~recbole_sda.catalog.demo_world.World`.

    Raises:
        SDAError: bad settings, or a folder that is not empty.
    """
    world = World(**settings)
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise SDAError(f"{folder} is not empty; the demo is written into a new folder only")
    folder.mkdir(parents=True, exist_ok=True)

    plan = make_plan(world)
    _draw_pictures(folder / "images", plan, world)
    if world.audio:
        _play_sounds(folder / "audio", plan, world)
    write_atomic(
        folder / "demo.item",
        ["item_id:token", "title:token", "brand:token", "description:token"],
        _item_rows(plan, world),
    )
    write_atomic(
        folder / "demo.inter",
        ["user_id:token", "item_id:token", "timestamp:float"],
        draw_interactions(plan, world),
    )
    _write_truth(folder / "demo.truth.csv", plan, audio=world.audio)
    (folder / MARKER).write_text(json.dumps(world.settings(), indent=2) + "\n", encoding="utf-8")
    return folder


def ensure_demo(data_path: str | Path, **settings) -> Path:
    """The folder `data_path/demo`, made by `write_demo(**settings)` unless it is there with these settings.

    One with recordings serves where none are wanted. A folder of that name without the generator's marker is
    somebody's own and is never touched.
    """
    folder = Path(data_path) / "demo"
    wanted = World(**settings).settings()
    if _is_current(folder, wanted):  # before the lock, which would need a folder that can be written to
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".demo.lock"):
        if folder.exists() and not (folder / MARKER).is_file():
            raise SDAError(
                f"{folder} exists and was not made by the demo generator (no {MARKER}); "
                "rename it, or choose another data_path"
            )
        if not _is_current(folder, wanted):  # another process may have made it meanwhile
            with replacing_folder(folder) as new:
                write_demo(new, **settings)
    return folder


def _is_current(folder: Path, wanted: dict) -> bool:
    parts = ["demo.inter", "demo.item", "images", *(["audio"] if AUDIO in wanted else [])]
    if not all((folder / part).exists() for part in parts):
        return False
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return wanted in (found, {key: value for key, value in found.items() if key != AUDIO})
    except (FileNotFoundError, ValueError, AttributeError):  # AttributeError: JSON, but no object
        return False


def _draw_pictures(folder: Path, plan: Plan, world: World) -> None:
    folder.mkdir()
    view = plan.views["image"]
    with progress_bar(world.items, "demo: pictures", "item", show=world.items >= SHOW_PROGRESS_ITEMS) as bar:
        for index, token in enumerate(plan.tokens):
            if index not in view.missing:
                picture = draw_picture(named(view.values, index), stream(world.seed, "picture", index))
                if world.noise:
                    picture = add_noise(picture, world.noise, stream(world.seed, "picture_noise", index))
                picture.save(folder / f"{token}.png")
            bar.update()


def _play_sounds(folder: Path, plan: Plan, world: World) -> None:
    folder.mkdir()
    view = plan.views["audio"]
    for index, token in enumerate(plan.tokens):
        if index not in view.missing:
            samples = play_sound(named(view.values, index), stream(world.seed, "sound", index))
            write_wave(folder / f"{token}.wav", samples)


def _item_rows(plan: Plan, world: World) -> Iterator[list[str]]:
    view = plan.views["text"]
    for index, token in enumerate(plan.tokens):
        if index in view.missing:
            yield [token, "", "", ""]
            continue
        fields = write_text(named(view.values, index), stream(world.seed, "text", index))
        if world.noise:
            fields = replace_words(fields, world.noise, stream(world.seed, "text_noise", index))
        yield [token, *fields]


def _write_truth(path: Path, plan: Plan, *, audio: bool) -> None:
    columns = {}
    for group in (("image", "text"), *([("audio",)] if audio else [])):
        columns |= {f"{CALLED[modality]}_own": plan.views[modality].own for modality in group}
        columns |= {f"has_{CALLED[modality]}": _present(plan, modality) for modality in group}
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item_id", *plan.attributes, "popularity", *columns])
        for index, token in enumerate(plan.tokens):
            hidden = named(plan.attributes, index).values()
            flags = (int(values[index]) for values in columns.values())
            writer.writerow([token, *hidden, f"{plan.popularity[index]:.6g}", *flags])


def _present(plan: Plan, modality: str) -> list[bool]:
    return [index not in plan.views[modality].missing for index in range(len(plan.tokens))]
