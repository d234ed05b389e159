"""Following a training run while it goes on, by the log it writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from matplotlib.figure import Figure

from dne_lib.files import InputError
from dne_lib.plots import training_curves

SHOWN = ("loss", "mpvpe_last", "parts_accuracy")  # one look, not all there is


@contextmanager
def watch(log: Path, show: Callable[[Figure], None], seconds: float = 2.0) -> Iterator[None]:
    """While the block runs, show the curves of a log each time it has grown; and once at the end.

    A thread of this process reads the file, so it does not matter where the training runs: here,
    or in one process for each GPU.

    Args:
        log: a run's `log.jsonl`; it need not be there yet.
        show: takes a figure, as the `update` of a notebook's display does.
        seconds: between two looks.
    """
    stop = Event()

    def follow() -> None:
        seen = 0
        while True:
            last = stop.wait(seconds)
            size = log.stat().st_size if log.exists() else 0
            if size > seen:
                # A line that is only half there is read the next time.
                with suppress(InputError):
                    show(training_curves(log, names=SHOWN))
                    seen = size
            if last:
                return

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
