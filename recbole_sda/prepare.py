"""A dataset's files have to be there before RecBole looks for them; the demo's are made."""

from pathlib import Path

from recbole_sda.catalog.demo import ensure_demo
from recbole_sda.catalog.demo_world import KEYS
from recbole_sda.catalog.known import how_to_make
from recbole_sda.config import SDAConfig
from recbole_sda.errors import SDAError
from recbole_sda.key_kinds import names

DEMO = "demo"


def prepare_dataset(config: SDAConfig) -> None:
    folder = Path(config["data_path"])
    if config["dataset"] == DEMO:
        settings = {name: config[key] for name, key in KEYS.items()}
        settings |= {name: names(KEYS[name], settings[name]) for name in ("image_factors", "text_factors")}
        if "audio" in config["modalities"]:
            settings |= {"audio": True, "audio_signal": config["audio_signal"]}
        try:
            ensure_demo(folder.parent, **settings)
        except OSError as error:
            raise SDAError(
                f"data_path={folder.parent}: the demo cannot be written there ({error.strerror}); "
                "say --data_path=FOLDER with one that can"
            ) from error
    if not list(folder.glob(f"{config['dataset']}*.inter")):
        others = sorted(p.parent.name for p in folder.parent.glob("*/*.inter"))
        raise SDAError(
            f"dataset={config['dataset']!r} is not there: {folder / config['dataset']}.inter does not exist. "
            f"{how_to_make(config['dataset'], folder)}, or use one of: {', '.join(sorted({DEMO, *others}))}"
        )
