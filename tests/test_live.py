import json
import threading
import time

import pytest

from dne_lib.live import SHOWN, watch
from dne_lib.plots import training_curves


def line(step):
    return json.dumps({"step": step, "loss": 10.0 / step, "mpvpe_last": 50.0, "depth": 1.0}) + "\n"


def points(figure):
    """How many steps the first panel shows."""
    return len(figure.axes[0].lines[0].get_xdata())


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "nothing was shown"
        time.sleep(0.01)


def test_curves_are_shown_as_the_log_grows_and_whole_at_the_end(tmp_path):
    log, shown = tmp_path / "log.jsonl", []
    with watch(log, shown.append, seconds=0.01):
        assert not shown
        log.write_text(line(1))
        until(lambda: shown)
        assert points(shown[-1]) == 1
        with log.open("a") as file:
            file.write(line(2) + line(3)[:9])  # caught in the middle of a line
            file.flush()
            time.sleep(0.1)
            file.write(line(3)[9:])
    assert points(shown[-1]) == 3
    assert [axis.get_title() for axis in shown[-1].axes if axis.get_visible()] == list(SHOWN[:2])


def test_an_unchanged_log_is_not_drawn_again(tmp_path):
    log, shown = tmp_path / "log.jsonl", []
    log.write_text(line(1))
    with watch(log, shown.append, seconds=0.01):
        until(lambda: shown)
        time.sleep(0.2)
    assert len(shown) == 1


def test_what_goes_wrong_inside_comes_out_and_the_thread_ends(tmp_path):
    before, shown = threading.active_count(), []
    with (
        pytest.raises(KeyboardInterrupt),
        watch(tmp_path / "none", shown.append, seconds=60.0),
    ):
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert not shown


def test_only_the_named_curves(tmp_path):
    (tmp_path / "log.jsonl").write_text(line(1) + line(2))
    figure = training_curves(tmp_path / "log.jsonl", names=("depth",))
    assert [axis.get_title() for axis in figure.axes] == ["depth"]
