"""Item embeddings from a vision-language model adapted to your catalogue, for every RecBole user.

Importing this package imports neither RecBole nor torch; the functions below do when they are called.
"""

from pathlib import Path

__version__ = "0.1.0"
__all__ = [
    *("__version__", "adapt", "diagnose", "embed", "item_embeddings", "load", "register_model", "run", "study"),
    *("top_k", "tune", "write_report"),
]


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


def study(name=None, dataset=None, config_dict=None, config_file_list=None) -> dict:
    """Several settings with several seeds; see :func:`recbole_sda.studies.study`."""
    from recbole_sda import studies

    return studies.study(name, dataset, config_dict, config_file_list)


def tune(model=None, dataset=None, config_dict=None, config_file_list=None) -> dict:
    """Sweep a space of values, choose by validation, test the winners; see :func:`recbole_sda.tuning.tune`."""
    from recbole_sda import tuning

    return tuning.tune(model, dataset, config_dict, config_file_list)


def load(checkpoint, *, features=None, data_path=None, model=None) -> tuple:
    """A trained recommender from its checkpoint; see :func:`recbole_sda.loading.load`."""
    from recbole_sda import loading

    return loading.load(checkpoint, features=features, data_path=data_path, model=model)


def top_k(recommender, users=None, *, k=10, exclude_history=True, batch_users=None):
    """The best items for users, as a table; see :func:`recbole_sda.serving.top_k`."""
    from recbole_sda import serving

    return serving.top_k(recommender, users, k=k, exclude_history=exclude_history, batch_users=batch_users)


def item_embeddings(recommender) -> tuple:
    """What a trained recommender knows of each item; see :func:`recbole_sda.serving.item_embeddings`."""
    from recbole_sda import serving

    return serving.item_embeddings(recommender)


def register_model(model_class, *, slots=None, defaults=None) -> type:
    """A RecBole model class of your own, known by its name; see :func:`recbole_sda.model.register_model`."""
    from recbole_sda import model

    return model.register_model(model_class, slots=slots, defaults=defaults)


def write_report(result, output=None, **options) -> Path:
    """A page to look at, from what a run wrote; see :func:`recbole_sda.report.page.write.write_report`."""
    from recbole_sda.report.page import write

    return write.write_report(result, output, **options)
