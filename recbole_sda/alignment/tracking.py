"""What a training tells TensorBoard or Weights & Biases."""

from accelerate import Accelerator

RUN = "recbole_sda"  # the folder beside the checkpoints, the project in wandb
BY_MODALITY = ("mean_pairwise_cosine", "effective_rank", "distance_to_base")


class Tracking:
    """Passes figures to the accelerator's trackers; without any it does nothing."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        if accelerator.log_with:
            accelerator.init_trackers(RUN)

    def step(self, step: int, figures: dict[str, float]) -> None:
        self.accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=step)

    def look(self, record: dict) -> None:
        figures = {"held_out/loss": record["held_out_loss"]}
        figures |= {f"held_out/{name}": record[name] for name in record if name == "mrr" or "_recall@" in name}
        for kind in BY_MODALITY:
            figures |= {f"{kind}/{modality}": value for modality, value in record[kind].items()}
        for layer, modalities in record["gates"].items():
            for modality, shares in modalities.items():
                figures |= {f"gate/{layer}/{modality}/{i}": share for i, share in enumerate(shares)}
        self.accelerator.log(figures, step=record["step"])

    def finish(self) -> None:
        # not `end_training`, which would also end the processes' group for whoever opened it
        for tracker in self.accelerator.trackers:
            tracker.finish()
