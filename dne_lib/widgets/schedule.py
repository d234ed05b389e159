"""Lesson 11: how far the weights may travel, and when."""

import numpy as np
from jaxtyping import Float

from dne_lib.config import TrainConfig
from dne_lib.train import learning_rate
from dne_lib.widgets.panels import COOL, WARM, Controls, Panel, Points, Slider

SCHEDULE_CONTROLS: Controls = {
    "epochs": Slider("epochs", 5, 60, 5, 30),
    "rate": Slider("first rate, log₁₀", -5.0, -2.0, 0.25, -3.0),
    "warmup": Slider("warm-up, % of steps", 0, 20, 1, 2),
}
EPOCH = 50  # steps: the curves are the same for any number


def rates(schedule: str, epochs: int, rate: float, warmup: int) -> Float[np.ndarray, "step"]:
    """The learning rate of every step.

    Args:
        schedule: paper or cosine.
        rate: logarithm to base 10 of the first, or the highest.
        warmup: per cent of the steps; the cosine only.
    """
    steps = EPOCH * epochs
    config = TrainConfig(
        schedule="paper" if schedule == "paper" else "cosine",
        steps=steps, learning_rate=10**rate, warmup=steps * warmup // 100,
    )  # fmt: skip
    return np.array([learning_rate(step, config, EPOCH) for step in range(steps)])


def schedule_panels(epochs: int = 30, rate: float = -3.0, warmup: int = 2) -> list[Panel]:
    """The two schedules, and the share of the sum of all rates that is behind at each epoch.

    Args:
        epochs: of the whole training.
        rate: logarithm to base 10 of the first rate.
        warmup: per cent of the steps; the cosine only.
    """
    time = np.arange(EPOCH * epochs) / EPOCH
    curves, shares, halves = [], [], []
    for name, colour in (("paper", WARM), ("cosine", COOL)):
        values = rates(name, epochs, rate, warmup)
        # The cosine ends at zero, which has no logarithm.
        logs = np.log10(np.maximum(values, 1e-8))
        share = 100 * values.cumsum() / values.sum()
        curves.append(Points(np.stack([time, logs], 1), colour, 0, name))
        shares.append(Points(np.stack([time, share], 1), colour, 0, name))
        halves.append(f"{name} {time[np.searchsorted(share, 50)]:.1f}")
    return [
        Panel("learning rate", curves, "epoch", "log₁₀ of the rate", (-8.2, -1.8)),
        Panel(f"half of the way by epoch: {', '.join(halves)}", shares, "epoch",
              "share of the way, %", (0.0, 102.0)),
    ]  # fmt: skip
