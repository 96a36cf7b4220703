"""Full-ranking evaluation: users a second and additional memory, ours ÷ stock RecBole's, same model, same run.

    python benchmarks/ranking.py
    python benchmarks/ranking.py --model=SASRec --users=4000 --pairs=2

RecBole's own default batch scores one user at a time for general models. Results are compared with `==`. Memory is
what one evaluation needs at its peak beyond what its process held before, each contestant in a process of its own.
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil
import torch
from harness import options, print_table, ratio, start, time_in_turns
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed
from worlds import write_interactions

from recbole_sda.config import SDAConfig
from recbole_sda.recommend import eval_batch_size
from recbole_sda.trainer import build_trainer

METRICS = ["Recall", "MRR", "NDCG", "Hit", "Precision"]  # of those that stock RecBole can compute
RECBOLES_BATCH = 4096
# contestant → (trainer, whether the batch is ours)
CONTESTANTS = {
    "stock, its default batch": (Trainer, False),
    "stock, our batch": (Trainer, True),
    "ours": (build_trainer, True),
}


def prepare(model: str, folder: Path, contestant: str) -> Callable[[], dict]:
    """An evaluation of the untrained model, whose weights are the same for all contestants."""
    make_trainer, ours = CONTESTANTS[contestant]
    settings = {
        "data_path": str(folder.parent),
        "checkpoint_dir": str(folder.parent / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": METRICS,
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "state": "ERROR",
    }
    config = SDAConfig(model, folder.name, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    config["eval_batch_size"] = eval_batch_size(config, dataset.item_num) if ours else RECBOLES_BATCH
    train, _, test = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    trainer = make_trainer(config, config.model_class(config, train._dataset).to(config["device"]))
    trainer.eval_collector.data_collect(train)
    return partial(trainer.evaluate, test, load_best_model=False)


def additional_memory(model: str, folder: Path, contestant: str, threads: int) -> tuple[int, dict]:
    """Bytes that an evaluation needs at its peak, and its result."""
    torch.set_num_threads(threads)
    evaluate = prepare(model, folder, contestant)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts from here
    before = psutil.Process(os.getpid()).memory_info().rss
    result = evaluate()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return peak - before, result


def main() -> None:
    parser = options(__doc__, model="BPR", users=20_000, items=12_000, interactions=180_000, pairs=3)
    args = parser.parse_args()
    start(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # RecBole writes a log folder
        folder = Path(temporary) / "shop"
        write_interactions(folder, users=args.users, items=args.items, interactions=args.interactions)
        memory, results = {}, {}
        for contestant in CONTESTANTS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                task = process.submit(additional_memory, args.model, folder, contestant, args.threads)
                memory[contestant], results[contestant] = task.result()
        runs = {contestant: prepare(args.model, folder, contestant) for contestant in CONTESTANTS}
        seconds = time_in_turns(runs, pairs=args.pairs)
    assert all(result == results["ours"] for result in results.values()), results
    print(f"{args.model}, {args.users} users, {args.items} items; the results are equal: {dict(results['ours'])}")
    print_table(
        [
            {
                "evaluation": name,
                "users/s": f"{args.users / median(seconds[name]):.0f}",
                "its time ÷ ours": ratio(seconds, name, "ours"),
                "additional MiB": f"{memory[name] / 2**20:.0f}",
                "our memory ÷ its": f"{memory['ours'] / memory[name]:.2f}",
            }
            for name in CONTESTANTS
        ]
    )


if __name__ == "__main__":
    main()
