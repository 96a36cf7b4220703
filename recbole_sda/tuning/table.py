"""A sweep's trials and winners as tables."""

from recbole_sda.report.table import UNDEFINED, Table

WIDTH = 60  # of an error in the table; the log and results.json have all of it


def sweep_tables(result: dict) -> list[str]:
    """The trials, those of a model together and the best first; the winners with their test; the notes."""
    return [_trials(result).text(), _winners(result).text(), *(f"Note: {note}" for note in result["notes"])]


def shown(value) -> str:
    """A swept value, or a figure of a trial."""
    if value is None:
        return UNDEFINED
    return f"{value:g}" if isinstance(value, float) else str(value)


def _trials(result: dict) -> Table:
    metric = result["metric"]
    header = ["model", *result["swept"], f"valid\n{metric}", "trained\nepochs", "s", "state"]
    rows = [
        [
            entry["model"],
            *(shown(entry["values"].get(key)) for key in result["swept"]),
            UNDEFINED if entry["score"] is None else f"{entry['score']:.4f}",
            shown(entry["trained_epochs"]),
            f"{entry['seconds']:.0f}",
            _state(entry),
        ]
        for entry in result["trials"]
    ]
    return Table(f"Sweep on {result['dataset']}, {len(rows)} trials:", header, rows, 1 + len(result["swept"]))


def _state(entry: dict) -> str:
    return _failed(entry["error"]) if entry["error"] else entry["state"]


def _failed(error: dict) -> str:
    said = f"failed: {error['type']}: {error['message']}"
    return said if len(said) <= WIDTH else said[: WIDTH - 1] + "…"


def _test(winner: dict, metric: str) -> str:
    if winner["error"]:
        return _failed(winner["error"])
    test = (winner.get("test") or {}).get(metric)
    return UNDEFINED if test is None else f"{test:.4f}"


def _winners(result: dict) -> Table:
    metric = result["metric"]
    rows = []
    for model, winner in result["winners"].items():
        values = " ".join(f"{key}={shown(value)}" for key, value in winner["values"].items())
        rows.append([model, values, f"{winner['score']:.4f}", _test(winner, metric)])
    header = ["model", "values", f"valid\n{metric}", f"test\n{metric}"]
    return Table("Best by validation, the only ones that were tested:", header, rows, 2)
