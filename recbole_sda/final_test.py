"""The test of a trained recommender: after its training, or later from its checkpoint, to the same figures."""

from pathlib import Path

import torch

from recbole_sda.artefacts import written_whole
from recbole_sda.distributed import from_main
from recbole_sda.evaluation.collector import RANKING
from recbole_sda.trainer import build_trainer, plain


def evaluate_test(trainer, test_data, checkpoint: Path) -> dict:
    """Test the best state.

    Args:
        trainer: fitted, or with ``saved_model_file`` as if it were, and prepared for the evaluation.
        checkpoint: beside which every user's metrics go.

    Returns:
        ``test``: metric → value; ``user_results``: a path, None where the metrics are no means over users.
    """
    result = trainer.evaluate(test_data, show_progress=trainer.config["show_progress"])
    users = from_main(_write_users(trainer, checkpoint) if trainer.config["local_rank"] == 0 else None)
    return {"test": plain(result), "user_results": users and str(users)}


def leave_untested(trainer) -> dict:
    """The same without a test, of which nothing is computed; what a later one draws is settled now."""
    if trainer.config["single_spec"]:
        trainer.files.save_random()
    return {"test": None, "user_results": None}


def evaluate_checkpoint(config, model, loaders, checkpoint: Path, outcome: dict) -> dict | None:
    """Test what was trained before.

    Args:
        model: as it was built for the training; it gets the checkpoint's state.
        outcome: of the training.

    Returns:
        The outcome with the test; None where the checkpoint cannot hold the whole model.
    """
    if torch.load(checkpoint, map_location="cpu", weights_only=True)["left_out"]:
        return None
    trainer = build_trainer(config, model, str(checkpoint), resume=True)
    trainer.saved_model_file = str(checkpoint)
    trainer.prepare_evaluation(*loaders)
    trainer.files.restore_random()
    tested = evaluate_test(trainer, loaders[2], checkpoint)
    artefacts = {**outcome["artefacts"], "user_results": tested.pop("user_results")}
    return {**outcome, **tested, "artefacts": artefacts}


def _write_users(trainer, checkpoint: Path) -> Path | None:
    """Every user's test metrics beside the checkpoint."""
    if not trainer.eval_collector.needs.intersection(RANKING):
        return None
    path = checkpoint.with_suffix(".users.parquet")
    with written_whole(path) as unfinished:
        trainer.write_user_results(unfinished)
    return path
