"""Work that is prepared ahead: worker processes read and decode files while the model is busy."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from recbole_sda.errors import SDAError

Task = TypeVar("Task")
Ready = TypeVar("Ready")

AHEAD = 2  # tasks a worker has ready or in hand


def read_ahead(
    prepare: Callable[[Task], Ready], tasks: Iterable[Task], *, workers: int
) -> Iterator[tuple[Task, Ready]]:
    """Each task with what ``prepare`` makes of it, in order. Closing the iterator ends the workers.

    Args:
        prepare: runs in forked processes, without CUDA; what it returns can be pickled.
        tasks: drawn as they are needed, in this process.
        workers: processes; 0 prepares here, when it is asked for, and so does a system that cannot fork.

    Raises:
        SDAError: what ``prepare`` raised, or a worker died.
    """
    if workers == 0 or "fork" not in multiprocessing.get_all_start_methods():
        yield from ((task, prepare(task)) for task in tasks)
        return
    loader = DataLoader(
        _Prepared(prepare),
        sampler=tasks,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",  # another start would need a copy of the model and the catalogue
        generator=torch.Generator(),  # the global one is the training's
    )
    with _tokenizers_that_can_fork():
        answers = iter(loader)
    try:
        try:
            for task, ready, refusal in answers:
                if refusal is not None:
                    raise SDAError(refusal)
                yield task, ready
        finally:
            answers._shutdown_workers()  # at once: a traceback would keep the iterator alive, and them with it
    except (RuntimeError, ConnectionError, EOFError) as error:
        # Which of them says that a worker is gone depends on what it was about to hand over.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = (str(error) or repr(error)).splitlines()[0].strip()
        raise SDAError(
            f"a process that reads files ahead has died ({reason}); set "
            "read_workers=0 to do without, or lower what goes through the model at once (align_micro_batch, "
            "embed_batch_tokens), a few of which each holds in memory"
        ) from error


class _Prepared:
    def __init__(self, prepare: Callable):
        self.prepare = prepare

    def __getitem__(self, task):
        """The task, what it became, and what the user did wrong: an exception would come with a traceback."""
        try:
            return task, self.prepare(task), None
        except SDAError as error:
            return task, None, str(error)


def _as_it_is(answer):
    return answer


@contextmanager
def _tokenizers_that_can_fork() -> Iterator[None]:
    """Rust tokenizers with threads of their own warn in every process that is forked from theirs."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
