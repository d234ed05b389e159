"""The eleventh lesson's curves are the schedules of `train`."""

import numpy as np
import pytest

from dne_lib.widgets import schedule, schedule_panels


def test_rates_by_hand():
    paper = schedule.rates("paper", 30, -3.0, 5)
    assert len(paper) == 30 * schedule.EPOCH
    assert paper[:: schedule.EPOCH][:3] == pytest.approx([1e-3, 5e-4, 2.5e-4])
    assert paper[-1] == 1e-6
    cosine = schedule.rates("cosine", 20, -2.0, 10)
    assert cosine.argmax() in (99, 100)  # a tenth of 1000 steps
    assert cosine.max() == pytest.approx(1e-2)
    assert cosine[550] == pytest.approx(5e-3)


def test_the_paper_travels_half_its_way_in_the_first_epoch():
    panels = schedule_panels()
    for layer in panels[1].layers:
        share = layer.places[:, 1]
        assert share[-1] == pytest.approx(100)
        assert (np.diff(share) >= 0).all()
    # 1/2 + 1/4 + ... + 1/512 and a floor of 20 epochs: the first has 49 %.
    share = panels[1].layers[0].places[schedule.EPOCH - 1, 1]
    assert share == pytest.approx(100 / (2 - 2**-9 + 20 / 1000), abs=0.1)
    assert "paper 1.0" in panels[1].title
