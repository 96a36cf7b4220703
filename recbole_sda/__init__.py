"""Item embeddings from a vision-language model adapted to your catalogue, for every RecBole user.

Importing this package imports neither RecBole nor torch; the functions below do when they are called.
"""

from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "adapt", "diagnose", "embed", "load", "run"]


def run(model=None, dataset=None, config_dict=None, config_file_list=None) -> dict:
    """Adapt, embed, recommend; see :func:`recbole_sda.pipeline.run`."""
    from recbole_sda import pipeline

    return pipeline.run(model, dataset, config_dict, config_file_list)


def adapt(dataset=None, config_dict=None, config_file_list=None) -> Path | None:
    """Stage 1 alone; see :func:`recbole_sda.pipeline.adapt`."""
    from recbole_sda import pipeline

    return pipeline.adapt(dataset, config_dict, config_file_list)


def embed(dataset=None, config_dict=None, config_file_list=None) -> Path:
    """Stages 1 and 2; see :func:`recbole_sda.pipeline.embed`."""
    from recbole_sda import pipeline

    return pipeline.embed(dataset, config_dict, config_file_list)


def diagnose(what, dataset=None, config_dict=None, config_file_list=None) -> dict:
    """A look at how stage 1 works, for example ``"conflict"``; see :func:`recbole_sda.pipeline.diagnose`."""
    from recbole_sda import pipeline

    return pipeline.diagnose(what, dataset, config_dict, config_file_list)


def load(checkpoint) -> tuple:
    """A trained recommender from its checkpoint; see :func:`recbole_sda.recommend.load`."""
    from recbole_sda import recommend

    return recommend.load(checkpoint)
