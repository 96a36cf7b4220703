"""What most tests share: a small drawn catalogue, the paper's prompts, the built-in backbone."""

import logging
import os
import sys

# Before torch and the hub's client read them, and for the processes that tests start. On tensors this small a
# second thread costs more than it brings, and sums come out in one order.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from peft import get_peft_model

from recbole_sda.adapters import MoDAConfig
from recbole_sda.alignment.settings import AlignmentSettings
from recbole_sda.catalog import Catalog
from recbole_sda.catalog.demo import write_demo
from recbole_sda.catalog.items import item_tokens
from recbole_sda.encoders import Backbone, Pooling, Prompts, load_backbone

pytest_plugins = ["report_page.pages"]


def pytest_addoption(parser):
    parser.addoption(
        "--peft-tests",
        metavar="FOLDER",
        help="an unpacked source distribution of the installed PEFT, whose own cases then run on MoDA "
        "(pip download --no-binary :all: --no-deps peft)",
    )


@pytest.fixture(autouse=True)
def logger_as_it_was():
    """The command line's handler writes to the terminal of the test that made it, and goes with it."""
    logger = logging.getLogger("recbole_sda")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """The demo dataset, 60 items, one without a picture and one without text. Do not write to it."""
    return write_demo(tmp_path_factory.mktemp("data") / "demo", items=60, users=80)


@pytest.fixture(scope="session")
def catalog(demo_folder) -> Catalog:
    return open_demo(demo_folder)


PROMPTS = {
    "domain": "product",
    "instruction": "",
    "image": "The {domain} item has the image:",
    "text": "The {domain} item has the following attributes: {fields}",
    "audio": "The {domain} item has the audio:",
    "vectors": "The {domain} item has the {modality}:",
    "field": "{name} is {value};",
    "field_templates": {},
    "value_chars": 100,
    "field_chars": {},
}
LOADING = {
    "revision": None,
    "local_files_only": True,
    "trust_remote_code": False,
    "dtype": "auto",
    "device": "cpu",
    "attn_implementation": None,
    "quantization": "none",
    "device_map": None,
    "min_pixels": 400,
    "max_pixels": 12544,
    "prompts": Prompts(**PROMPTS),
    "pooling": Pooling(kind="auto", layer=None, last_layers=1, dimension=None),
}


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    return Prompts(**PROMPTS)


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """The built-in backbone with pictures of at most 112 x 112. Do not change it."""
    return load_backbone("tiny", **LOADING)


RAY_STARTS = 3  # of which a busy machine may fail some: Ray waits half a minute for itself


@pytest.fixture(scope="session")
def ray_cluster():
    """Ray with room for four processes, whatever this machine has; one for all tests, for it is slow to start."""
    ray = pytest.importorskip("ray")
    importable = {"PYTHONPATH": os.pathsep.join(sys.path)}  # the tests' own modules, where workers unpickle
    for left in reversed(range(RAY_STARTS)):
        try:
            ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": importable})
            break
        except Exception:  # Ray's own kinds, and a bare one where it timed out
            ray.shutdown()
            if not left:
                raise
    yield
    ray.shutdown()


def drawn(rows=6, width=5, seed=0, **options) -> list[torch.Tensor]:
    """The same random embeddings of two modalities each time, (rows, width)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=generator, **options) for _ in range(2)]


def alignment_settings(**values) -> AlignmentSettings:
    """A few short steps, everything in one graph."""
    defaults = {
        "batch_size": 8,
        "steps": 3,
        "learning_rate": 5e-3,
        "max_grad_norm": 1.0,
        "holdout_share": 0.3,
        "holdout_max": 512,
        "eval_every": 10,
        "patience": None,
        "seed": 1,
        "mixed_precision": "none",
        "micro_batch": 64,
        "checkpoint_every": 100,
        "trackers": (),
        "read_workers": 0,
    }
    return AlignmentSettings(**{**defaults, **values})


def open_demo(folder) -> Catalog:
    return Catalog.open(folder, item_tokens(folder / f"{folder.name}.item"), show_progress=False)


def adapted_tiny(**settings) -> Backbone:
    """A new tiny backbone inside a new MoDA adapter, with short prompts and pictures of 56 x 56 for speed."""
    short = Prompts(**{**PROMPTS, "image": "image:", "text": "{fields}", "field": "{value}"})
    backbone = load_backbone("tiny", **{**LOADING, "prompts": short, "max_pixels": 3136})
    backbone.model = get_peft_model(backbone.model, MoDAConfig(**settings))
    return backbone
