"""The command line: a verb, then ``--key=value`` for every key of RecBole's and of ours."""

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from recbole_sda.defaults import help_text
from recbole_sda.errors import SDAError
from recbole_sda.full_disk import full_disk_refused
from recbole_sda.store_commands import STORE_COMMANDS, run_store_command

USAGE = """\
python run_recbole_sda.py [run|adapt|embed|diagnose WHAT|tune|study NAME] --model=MODEL --dataset=DATA [--key=…]
python run_recbole_sda.py export|import|verify|nearest|recommend|report PATH [--key=value …]

  run      adapt, embed, recommend, and print a table (the default)
  adapt    train the adapter alone            embed    train it if need be and embed the catalogue
  diagnose conflict   do image and text passes pull LoRA and MoDA the same way? (no --model)
  tune     a sweep under Ray Tune:   --space=properties/tune/tau_experts.yaml; --model=A,B sweeps several
  study    several settings with several seeds, to a table, a plot and a JSON; `study` alone lists them

  export STORE --output=PATH --format=npy|parquet|safetensors     a feature store's vectors for other tools
  import PATH --output=STORE --format=npy|parquet|safetensors     vectors of other tools as a feature store
         [--ids=FILE --dataset=NAME --dtype=float16]
  verify STORE                                                    compare every file with its checksum
  nearest STORE --modality=image --items=a,b --k=10               neighbours; needs `embed --index`
  export CHECKPOINT.pth --output=PATH --format=…                  a trained recommender's item embeddings
  recommend CHECKPOINT.pth --users=a,b --k=10                     the best items for users, or --users=all
         [--output=FILE.json|.jsonl|.parquet --exclude_history=False --features=PATH --data_path=FOLDER
          --model=package.module:Class, of a model of your own]
  report RESULT.json [--output=FOLDER]                            a page to look at, from what a run wrote
         [--items=1000 --users=6 --seed=0 --projection=umap --data_path=FOLDER]
  catalog check dataset/NAME [--output=FILE.json --contact-sheet=FILE.png]   count a dataset, name what is broken;
         `catalog --help` says more

  --config_files=a.yaml,b.yaml   more configuration, the command line wins
  --dataset=demo                 the built-in catalogue; any other name is a folder under dataset/
  --compare=ids,zero_shot,sda    several variants in one table

Every RecBole parameter works, too. Ours, with their defaults:
"""
# verb → the module of the function that has its name
STAGE_VERBS = {
    **dict.fromkeys(("run", "adapt", "embed", "diagnose"), "pipeline"),
    "tune": "tuning",
    "study": "studies",
}
WITH_SUBJECT = ("diagnose", "study", *STORE_COMMANDS)
PRINTING = ("run", "diagnose", "tune", "study")  # these show tables themselves
VERBS = (*STAGE_VERBS, *STORE_COMMANDS, "catalog")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns: the exit status; 2 for a mistake in the input, which is explained in one line.

    Raises:
        SystemExit: `catalog` was called with options that it does not know, or for its help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["catalog"]:  # with options and an exit status of its own, for scripts
        from recbole_sda.catalog.__main__ import main as catalog_main

        return catalog_main(arguments[1:])
    if "--help" in arguments or "-h" in arguments:
        print(USAGE + help_text())
        return 0
    _log_to_terminal()
    try:
        with full_disk_refused("run the command again: what is finished is kept"):
            _call(*_split(arguments))
    except (SDAError, ImportError) as error:
        print(f"recbole_sda: {error}", file=sys.stderr)
        return 2
    return 0


def _split(arguments: list[str]) -> tuple[str, list[str], list[str], list[str]]:
    """verb, what it is about if it takes that, configuration files, ``--key=value`` arguments."""
    verb = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
    if verb not in VERBS:
        raise SDAError(f"verb {verb!r} is unknown; choose {', '.join(VERBS)}")
    has_subject = verb in WITH_SUBJECT and arguments and not arguments[0].startswith("-")
    subject = [arguments.pop(0)] if has_subject else []
    joined, files = [], []
    while arguments:
        argument = arguments.pop(0)
        if argument.startswith("--") and "=" not in argument:  # `--key value`, and `--key` for True
            has_value = arguments and not arguments[0].startswith("--")
            argument += f"={arguments.pop(0)}" if has_value else "=True"
        key, _, value = argument.partition("=")
        if key == "--config_files":
            files += value.replace(",", " ").split()
        else:
            joined.append(argument)
    return verb, subject, files, joined


def _call(verb: str, subject: list[str], files: list[str], arguments: list[str]) -> None:
    if verb in STORE_COMMANDS:
        print(run_store_command(verb, subject, files, arguments))
        return
    # RecBole and torch load here, after the arguments make sense
    stage = getattr(import_module(f"recbole_sda.{STAGE_VERBS[verb]}"), verb)
    result = stage(*subject, config_file_list=files, argv=arguments)
    if verb not in PRINTING:
        print(result)


def _log_to_terminal() -> None:
    # Libraries' use of each other's old spellings, which a user can do nothing about.
    for library in ("recbole", "transformers", "peft"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)
    logger = logging.getLogger("recbole_sda")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
