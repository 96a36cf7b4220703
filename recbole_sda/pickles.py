"""RecBole unpickles datasets and loaders that it finds in ``checkpoint_dir``: a file there could run any code.

Nor do such files know of cold items, or of anything else that is ours. None is written and none is read.
"""

from pathlib import Path

from recbole_sda.errors import SDAError

SAVING_KEYS = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")
DATASETS = ("Dataset", "SequentialDataset", "KnowledgeBasedDataset")


def refuse_pickles(config) -> None:
    """Raises: SDAError: RecBole is asked to write or read a pickle, or would find one."""
    for key in SAVING_KEYS:
        if config[key]:
            raise SDAError(f"{key}={config[key]}: RecBole would pickle, and pickles run code; leave it out")
    dataset, model = config["dataset"], config["model"]
    names = [f"{dataset}-{kind}.pth" for kind in (*DATASETS, f"{model}Dataset")]
    for name in (*names, f"{dataset}-for-{model}-dataloader.pth"):
        file = Path(config["checkpoint_dir"]) / name
        if file.exists():
            raise SDAError(
                f"{file}: RecBole would unpickle this file, which may run any code; remove it, or say "
                "--checkpoint_dir=FOLDER"
            )
