"""How well `dne predict` does by itself: whole images, no box, hands to be found.

    python scripts/whole_images.py NETWORK DATA [--images 400]

NETWORK is a run folder, a .safetensors file or shipped[-varied]; DATA a tree whose test split is
used, evenly spaced. "Named right" are images of which it says which hands are there; the errors
(MPVPE, protocol wrist) are of the hands in those, the second with the box of the labels instead.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from dne_lib.config import HAND_UNIT
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import evenly_spaced, format_table
from dne_lib.files import InputError
from dne_lib.metrics import mpvpe
from dne_lib.predict import Prediction, predict
from dne_lib.weights import load_network


def error(found: Prediction, sample: dict[str, torch.Tensor]) -> float:
    """MPVPE over the hands of an image, millimetres."""
    v, joints = (torch.from_numpy(x) / HAND_UNIT for x in (found.vertices, found.joints))
    errors = mpvpe(v[None], joints[None], sample["vertices"][None], sample["joints"][None])
    return float(errors[0][sample["present"]].mean())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    network, config = load_network(options.network)
    config.data.root = options.data
    data = InterHand(options.data, "test", config.model, config.data, augment=False)
    rows: dict[str, list[tuple[bool, bool, float, float]]] = {"SH": [], "IH": []}
    chosen = evenly_spaced(len(data), options.images)
    for i in tqdm(chosen, unit="image"):
        sample = data[i]
        truth = sample["present"].numpy()
        kind = "IH" if truth.all() else "SH"
        try:
            found = predict(network, config, data.path(i))
        except InputError:
            rows[kind].append((False, False, np.nan, np.nan))
            continue
        if (found.present != truth).any():
            rows[kind].append((True, False, np.nan, np.nan))
            continue
        with torch.inference_mode():
            given = network(sample["image"][None], sample["present"][None]).stages[-1]
        v, joints = given.vertices, given.joints
        with_box = mpvpe(v, joints, sample["vertices"][None], sample["joints"][None])
        with_box = float(with_box[0][sample["present"]].mean())
        rows[kind].append((True, True, error(found, sample), with_box))
    lines = []
    for kind, values in rows.items():
        if not values:
            continue
        any_found, right, own, boxed = np.array(values, float).T
        lines.append(
            [kind, f"{len(values)}", f"{any_found.mean():.1%}", f"{right.mean():.1%}"]
            + [f"{np.nanmean(each):.2f} mm" for each in (own, boxed)]
        )
    heads = ["whole images", "images", "a hand found", "named right", "error", "with the true box"]
    print(format_table(heads, lines, markdown=True))


if __name__ == "__main__":
    main()
