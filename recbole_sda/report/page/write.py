"""The door: a result in, a folder with the page and its charts' pictures out."""

import logging
import tempfile
from pathlib import Path

from recbole_sda.artefacts import written_whole
from recbole_sda.errors import SDAError
from recbole_sda.features.extras import extra
from recbole_sda.progress import progress_bar
from recbole_sda.report.figures import write_pictures
from recbole_sda.report.notes import notes
from recbole_sda.report.page.result import is_finished, read_result
from recbole_sda.report.table import result_tables, title

logger = logging.getLogger(__name__)

PAGE = "report.html"
TRIED_BYTES = 2**20
NEEDED = ("jinja2", "plotly")
CHARTS = ("head-tail", "recommender-curves", "adapter-curves", "gates", "gradient-cosine")
CHARTS += ("map-before", "map-after")
MOST_ITEMS = 20_000  # points of a map that a browser still draws and turns; their pictures are in the page, too


def write_report(
    result: str | Path | dict,
    output: str | Path | None = None,
    *,
    items: int = 1000,
    users: int = 6,
    seed: int = 0,
    projection: str = "tsne",
    data_path: str | Path | None = None,
) -> Path:
    """Write one self-contained page about a run, and a PNG of each chart where there is a Chrome or Chromium.

    What the run left is read where the result says it is; what is gone is said on the page, with the command that
    would make it. Nothing is trained.

    Args:
        result: a run's JSON file, or what :func:`recbole_sda.run` returned.
        output: the folder to write to; None takes ``<result>-report`` beside the file.
        items: at most so many are sampled for the map.
        users: so many are shown with their recommendations.
        seed: of every sample.
        projection: ``tsne``, or ``umap`` where umap-learn is installed.
        data_path: the folder that holds the dataset's folder now, if it was moved since.

    Returns:
        The page.

    Raises:
        SDAError: not a result, an argument that cannot be, or the folder cannot be written to.
    """
    for module in NEEDED:
        extra(module, "report")
    found, file = read_result(result)
    folder = _folder(output, file)
    _check(items=items, users=users)
    # They import RecBole, plotly and jinja2.
    from recbole_sda.report.page.embedding_map import check_projection
    from recbole_sda.report.page.gather import Run
    from recbole_sda.report.page.render import render
    from recbole_sda.report.page.sections import Options, Sections

    check_projection(projection)
    _try_to_write(folder)
    options = Options(items, users, seed, projection, str(data_path) if data_path else None)
    maker = Sections(Run(found, file, options.data_path), options)
    made = []
    with progress_bar(len(maker.builders) + 2, "report", "part") as bar:
        for name, heading in maker.builders:
            made.append(maker.build(name, heading))
            bar.update()
        maker.tell_popularity()
        items, warning = maker.read_items()
        _write(folder / PAGE, render(_head(found, file, options, warning), made, items))
        bar.update()
        _remove_pictures(folder)
        write_pictures({folder / f"{chart.name}.png": chart.figure for part in made for chart in part.charts})
        bar.update()
    return folder / PAGE


def pictures_of(page: Path) -> list[Path]:
    """The charts' pictures beside a page."""
    return [file for chart in CHARTS if (file := page.with_name(f"{chart}.png")).is_file()]


def _head(result: dict, file: Path | None, options, warning: str) -> dict:
    tables = result_tables(result, k=result["k"])
    return {
        "title": title(result),
        "finished": is_finished(result),
        "tables": tables,
        "notes": notes(result, split=result["split"]),
        "result": result,
        "file": str(file) if file else "",
        "options": options,
        "warning": warning,
    }


def _folder(output: str | Path | None, file: Path | None) -> Path:
    if output is None and file is None:
        raise SDAError("output=None: a result that is no file needs a folder, as in output='report'")
    folder = Path(output) if output else file.with_name(f"{file.stem}-report")
    if folder.exists() and not folder.is_dir():
        raise SDAError(f"output={folder} is a file; name a folder for the page and its pictures")
    return folder


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise SDAError(f"{name}={count!r} must be a whole number of at least 1")
    if counts["items"] > MOST_ITEMS:
        raise SDAError(f"items={counts['items']} is more than a page can show; say --items={MOST_ITEMS} or fewer")


def _try_to_write(folder: Path) -> None:
    """Before the work: whether the page can be written at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIED_BYTES))
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _write(page: Path, text: str) -> None:
    try:
        with written_whole(page) as unfinished:
            # Names of files may hold what is no text.
            unfinished.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise _cannot_write(page.parent, error) from error


def _remove_pictures(folder: Path) -> None:
    """Of an earlier page, which may have had other charts."""
    try:
        for chart in CHARTS:
            (folder / f"{chart}.png").unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> SDAError:
    return SDAError(f"output={folder} cannot be written to ({error.strerror}); name a folder that can be")
