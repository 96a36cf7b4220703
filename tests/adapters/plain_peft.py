"""MoDA with plain PEFT on a plain torch model, where RecBole cannot even be imported. Prints what it finds."""

import sys
import tempfile

sys.modules["recbole"] = None  # from here on `import recbole` is an ImportError

import torch  # noqa: E402
from peft import PeftModel, get_peft_model  # noqa: E402
from torch import nn  # noqa: E402

from recbole_sda.adapters import MoDAConfig, adaptation_summary, routing  # noqa: E402


def base_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 16)).eval()


@torch.no_grad()
def run(model: nn.Module, modality: str) -> torch.Tensor:
    with routing(modality):
        return model(torch.linspace(-1, 1, 8 * 32).view(8, 32))


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5)


def main() -> None:
    model = get_peft_model(base_model(), MoDAConfig(target_modules=["0", "2"], init_weights=False))
    model.print_trainable_parameters()
    print(adaptation_summary(model))
    outputs = {modality: run(model, modality) for modality in ("image", "text")}
    print("outputs differ by modality:", not same(outputs["image"], outputs["text"]))

    for modality, expected in outputs.items():
        model.merge_adapter(modality=modality)
        print(f"merged for {modality} == unmerged:", same(run(model, modality), expected))
        model.unmerge_adapter()
        print("unmerged again == before, bit for bit:", torch.equal(run(model, modality), expected))

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(base_model(), folder)
        for modality, expected in outputs.items():
            print(f"saved == loaded for {modality}:", torch.equal(run(loaded, modality), expected))
    plain = loaded.merge_and_unload(modality="text")
    print("merged and unloaded is a plain layer:", type(plain[0]) is nn.Linear)
    print("merged and unloaded == unmerged:", same(run(plain, "text"), expected))


if __name__ == "__main__":
    main()
