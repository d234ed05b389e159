"""Write the card of the weights in the package, from what results/ records of them.

python scripts/model_card.py
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dne_lib.evaluate import format_table
from dne_lib.files import read_json, write_bytes
from dne_lib.metrics import PROTOCOLS
from dne_lib.weights import SHIPPED

ROOT = Path(__file__).parents[1]
CARD = SHIPPED["shipped"].parent / "MODEL_CARD.md"
KINDS = ("SH", "IH", "All")


def leg_row(leg: dict[str, Any]) -> list[str]:
    """One run of the training, as a row."""
    return [
        leg["name"],
        f"{leg['image_steps']:,}",
        f"{leg['image_size']}",
        f"±{leg['rotation']:.0f}°",
        f"{leg['images']:,}",
        f"{leg['seed']}",
    ]


def failures(metrics: dict[str, Any], stage: str) -> list[list[str]]:
    """Errors by kind of sequence, worst first: rows of kind, hands, MPVPE, 2D."""
    found: dict[str, list] = defaultdict(list)
    for name, values in metrics["breakdown"]["sequences"].items():
        found[name.rpartition("_")[2]].append(
            [values[f"{stage} {metric}"]["mean"] for metric in ("mpvpe wrist", "mpvpe_2d")]
            + [values[f"{stage} mpvpe wrist"]["hands"]]
        )
    rows = []
    for kind, values in found.items():
        space, plane, hands = np.array(values).T
        means = [np.average(each, weights=hands) for each in (space, plane)]
        rows.append((kind, int(hands.sum()), *means))
    rows.sort(key=lambda row: -row[2])
    return [[kind, f"{hands:,}", f"{mm:.1f}", f"{px:.1f}"] for kind, hands, mm, px in rows]


def card(results: Path) -> str:
    """The card's text.

    Args:
        results: the folder of `ship_weights.py`'s records.
    """
    coarse, full = (read_json(results / name / "record.json") for name in ("tiny_coarse", "tiny"))
    metrics = read_json(results / "tiny" / "metrics.json")
    stage = list(metrics["stages"])[-1]
    errors = metrics["stages"][stage]
    steps = [sum(leg["image_steps"] for leg in record["legs"]) for record in (coarse, full)]
    legs = format_table(
        ["run", "image-steps", "pixels", "turned by", "images", "seed"],
        [leg_row(leg) for record in (coarse, full) for leg in record["legs"]],
        markdown=True,
    )
    tables = [
        [f"{metric.upper()}, {protocol}", *(f"{errors[metric][protocol][k]:.1f} mm" for k in KINDS)]
        for metric in ("mpjpe", "mpvpe")
        for protocol in PROTOCOLS
    ]
    tables.append(["2D MPVPE at 256", *(f"{errors['mpvpe_2d'][k]:.1f} px" for k in KINDS)])
    measured = format_table([stage, *KINDS], tables, markdown=True)
    worst = format_table(
        ["sequences", "hands", "MPVPE, mm", "2D, px"], failures(metrics, stage), markdown=True
    )
    return f"""# The weights in this folder

`tiny.safetensors` is the full network of the preset `tiny` (ResNet-18 to its third stage, 128-pixel
input, M = 3 modules), `tiny_coarse.safetensors` its first stage alone. `dne_lib.load_pretrained()`,
`dne predict` and the lessons load the first, `make train` starts from the second. This card is
written by `python scripts/model_card.py` from `results/`.

## Use

To learn, to test code, to start training from. They have seen rendered hands only, of one hand
model: on photographs they are a demonstration, and no decision should rest on them.

## Training

{steps[0]:,} image-steps of the coarse stage and {steps[1]:,} of all, on images of the package's own
(`dne synthesize`), with the paper's augmentations; from random weights, no ImageNet. Device:
{full["device"]}. Code: commit {full["commit"]} at the end; the configurations and logs of all runs
are in `results/tiny_coarse` and `results/tiny`.

{legs}

## Errors

On {metrics["images"]["All"]:,} images of subjects that were not trained on
(`dne evaluate shipped --data {metrics["data"]} --split {metrics["split"]}`; {metrics["data"]}:
{metrics["images_of"]["release"]}; SH: one hand, IH: two; protocols as in `dne_lib/metrics.py`):

{measured}

They do not compare with figures on InterHand2.6M. By kind of sequence, the worst first:

{worst}

Nothing keeps two hands from passing through each other, and their distance in depth is a guess.

## Licence

MIT, like the code: the hand model is CC0 and all images are rendered from it.
"""


if __name__ == "__main__":
    write_bytes(CARD, card(ROOT / "results").encode())
    print(CARD)
