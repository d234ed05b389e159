"""Where the errors of a network come from, and what its modules could gain.

    python scripts/diagnose.py NETWORK DATA [--images 400]

NETWORK is a run folder, a .safetensors file, shipped or shipped-coarse; DATA a tree whose test
split is measured, on evenly spaced images. Millimetres are from MANO's wrist; the protocol
`wrist` of `dne evaluate` reads the wrist off the mesh, and its figures differ.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dne_lib.camera import project
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import batches, format_table
from dne_lib.mano import rotation_6d_to_matrix
from dne_lib.metrics import MILLIMETRES, mpvpe_2d
from dne_lib.weights import load_network


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
    noise = torch.Generator().manual_seed(0)
    errors: dict[str, list[Tensor]] = defaultdict(list)
    for batch in tqdm(batches(data, config, options.images), unit="batch"):
        with torch.inference_mode():
            output = network(batch["image"], batch["present"])
            drawn = network(
                batch["image"], batch["present"], samples=config.model.samples, generator=noise
            )
        there = batch["present"]
        v, true = output.stages[0].vertices[there], batch["vertices"][there]
        u, true_u = output.stages[0].projections[there], batch["vertices_2d"][there]
        pixels = {"coarse mesh, projected": u}
        if output.regressed is not None:
            own = output.regressed[there][..., :2]
            pixels |= {"regressed points": own, "the mean of the two": (u + own) / 2}
        floor = project(batch["vertices"], batch["camera"])[there]
        for name, points in (pixels | {"orthographic floor": floor}).items():
            errors[f"{name}, px"].append(mpvpe_2d(points, true_u))
        turn, true_turn = (
            rotation_6d_to_matrix(pose[there][:, 0])
            for pose in (output.parameters.pose, batch["pose"])
        )
        rest = true_turn @ turn.mT
        cosine = (rest.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
        errors["wrist turned wrongly, degrees"].append(cosine.clamp(-1, 1).acos().rad2deg())
        guesses = {
            "coarse mesh": v,
            "with the wrist's true turn": v @ rest.mT,
            "with true x, y": torch.cat([true[..., :2], v[..., 2:]], dim=-1),
            "with true z": torch.cat([v[..., :2], true[..., 2:]], dim=-1),
        }
        for m, stage in enumerate(output.stages[1:], 1):
            guesses[f"module {m}"] = stage.vertices[there]
            guesses[f"module {m}, drawn as in training"] = drawn.stages[m].vertices[there]
            errors[f"module {m}, px"].append(mpvpe_2d(stage.projections[there], true_u))
        if output.stages[1:]:
            last = output.stages[-1].vertices[there]
            guesses["last x, y; coarse z"] = torch.cat([last[..., :2], v[..., 2:]], dim=-1)
            guesses["coarse x, y; last z"] = torch.cat([v[..., :2], last[..., 2:]], dim=-1)
        for name, points in guesses.items():
            distance = (points - true).norm(dim=-1).mean(dim=-1)
            errors[f"{name}, mm"].append(MILLIMETRES * distance)
    rows = [[name, f"{torch.cat(each).mean():.2f}"] for name, each in sorted(errors.items())]
    print(format_table(["mean over the hands", ""], rows, markdown=True))


if __name__ == "__main__":
    main()
