"""Two communities and features that tell them apart: SLMRec and VBPR find whose items are whose, cold ones too."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_sda.config import SDAConfig
from recbole_sda.features import write_store
from recbole_sda.recommend import build
from recbole_sda.trainer import build_trainer

USERS, WARM, COLD = 24, 12, 6  # in each community
BOUGHT = 6  # warm items a user; the last one is for validation
EPOCHS = {"SLMRec": 10, "VBPR": 25}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """``planted.inter`` and the stores ``telling`` and ``shuffled``.

    A user buys warm items of its own community and, last and for the test alone, a cold one: no training edge
    leads there.
    """
    folder = tmp_path_factory.mktemp("world")
    (folder / "planted").mkdir()
    generator = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for community in range(2):
        for user in range(USERS):
            warm = generator.permutation(WARM)[:BOUGHT]
            bought = [f"w{community}-{item}" for item in warm] + [f"c{community}-{user % COLD}"]
            lines += [f"u{community}-{user}\t{item}\t{time}" for time, item in enumerate(bought)]
    (folder / "planted" / "planted.inter").write_text("\n".join(lines) + "\n")

    tokens = [
        f"{kind}{c}-{i}" for c in range(2) for kind, count in (("w", WARM), ("c", COLD)) for i in range(count)
    ]
    for modality in ("image", "text"):
        signs = np.array([1 if token[1] == "0" else -1 for token in tokens])
        # Half of each community's items, warm and cold alike, look like the other's: features tell nothing.
        swapped = np.array([int(token.split("-")[1]) % 2 for token in tokens])
        noise = generator.normal(0, 0.7, (len(tokens), 8))
        for name, sign in (("telling", signs), ("shuffled", signs * (1 - 2 * swapped))):
            (folder / name).mkdir(exist_ok=True)
            np.save(folder / name / f"{modality}.npy", (noise + sign[:, None]).astype(np.float32))
    for name in ("telling", "shuffled"):
        write_store(
            folder / name, tokens, dict.fromkeys(("image", "text"), np.ones(len(tokens), bool)), settings={}
        )
    return folder


def own_share(world, model_name, features, **values):
    """How many of the items ranked first, as many as there are, are the user's own community's: warm, cold."""
    config = SDAConfig(
        model_name,
        "planted",
        config_dict={
            "data_path": str(world),
            "features": features if features == "none" else str(world / features),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "embedding_size": 16,
            "learning_rate": 0.01,
            "train_batch_size": 64,
            "use_gpu": False,
            **values,
        },
    )
    dataset, _, model, (train_data, _, _) = build(config)
    trainer = build_trainer(config, model)
    for epoch in range(EPOCHS[model_name]):
        trainer._train_epoch(train_data, epoch)

    users, items = (dataset.field2id_token[f"{kind}_id"][1:] for kind in ("user", "item"))
    with torch.no_grad():
        ids = Interaction({"user_id": torch.arange(1, len(users) + 1)})
        scores = model.eval().full_sort_predict(ids).view(len(users), -1)[:, 1:].numpy()
    own = np.array([[user[1] == item[1] for item in items] for user in users])
    shares = []
    for kind, count in (("w", WARM), ("c", COLD)):
        columns = np.array([item[0] == kind for item in items])
        first = np.argsort(-scores[:, columns], axis=1)[:, :count]
        shares.append(np.take_along_axis(own[:, columns], first, axis=1).mean())
    return shares


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SLMREC = [("SLMRec", {"ssl_task": task}) for task in ("FAC", "FD", "FM", "FD+FM", "none")]
VBPR = [("VBPR", {"reg_weight": 0.001, "use_bias": use_bias}) for use_bias in (True, False)]


@pytest.mark.parametrize(("model", "values"), [*SLMREC, *VBPR], ids=str)
def test_features_that_tell_lift_items_without_any_training_edge(model, values, world):
    warm, cold = own_share(world, model, "telling", **values)
    assert warm > 0.85
    assert cold > 0.9


@pytest.mark.parametrize(("model", "values"), [SLMREC[0], VBPR[0]], ids=str)
@pytest.mark.parametrize("features", ["shuffled", "none"])
def test_features_that_do_not_tell_or_no_features_leave_them_to_chance(model, values, features, world):
    warm, cold = own_share(world, model, features, **values)
    assert warm > 0.8  # the graph tells, or the IDs
    assert 0.3 < cold < 0.7
