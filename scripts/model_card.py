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
JOINED = """full5 to full8 trained the modules, and all else with them, from coarse10 on. Then these
modules were put on coarse13 (`scripts/join_weights.py`), and full10 went on with both; and again,
those of full10 on coarse14, with which full11 went on. The weights are the mean of three
(`scripts/average_weights.py`): full10, full11, and coarse15 with the modules of full11."""


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


def legs_table(*records: dict[str, Any]) -> str:
    """All runs of a training."""
    heads = ["run", "image-steps", "pixels", "turned by", "images", "seed"]
    rows = [leg_row(leg) for record in records for leg in record["legs"]]
    return format_table(heads, rows, markdown=True)


def measured(metrics: dict[str, Any], name: str) -> str:
    """The errors of the last stage, and where they are largest."""
    stage = list(metrics["stages"])[-1]
    errors = metrics["stages"][stage]
    rows = [
        [f"{metric.upper()}, {protocol}", *(f"{errors[metric][protocol][k]:.1f} mm" for k in KINDS)]
        for metric in ("mpjpe", "mpvpe")
        for protocol in PROTOCOLS
    ]
    for row, values in (
        ("2D MPVPE at 256", errors["mpvpe_2d"]),
        ("of it, orthographic floor", metrics["floor"]),
    ):
        rows.append([row, *(f"{values[k]:.1f} px" for k in KINDS)])
    worst = ["sequences", "hands", "MPVPE, wrist, mm", "2D, px"]
    return f"""On {metrics["images"]["All"]:,} images of subjects that were not trained on
(`dne evaluate {name} --data {metrics["data"]} --split {metrics["split"]}`, of the weights before
they were rounded to half precision; {metrics["data"]}:
{metrics["images_of"]["release"]}; SH: one hand, IH: two; protocols as in `dne_lib/metrics.py`):

{format_table([stage, *KINDS], rows, markdown=True)}

By kind of sequence, the worst first:

{format_table(worst, failures(metrics, stage), markdown=True)}"""


def card(results: Path) -> str:
    """The card's text.

    Args:
        results: the folder of `ship_weights.py`'s records.
    """
    names = ("tiny_coarse", "tiny_coarse_longer", "tiny", "tiny_varied")
    coarse, longer, full, varied = records = [
        read_json(results / name / "record.json") for name in names
    ]
    steps = [sum(leg["image_steps"] for leg in each["legs"]) for each in records]
    studio, photographs = (read_json(results / name / "metrics.json") for name in names[2:])
    return f"""# The weights in this folder

Three networks of the preset `tiny` (ResNet-18 to its third stage, 128-pixel input):

- `tiny_coarse.safetensors`, in commands `shipped-coarse`: the first stage, trained alone. `make
  train` and some of the lessons start from it.
- `tiny.safetensors`, `shipped`, `dne_lib.load_pretrained()`: all of it, with M = 3 modules; in
  lessons 0 and 10.
- `tiny_varied.safetensors`, `shipped-varied`, `dne_lib.load_pretrained(varied=True)`: an
  earlier state of it, gone on with on varied images; what `dne predict` takes.

The first two know hands in a studio, the data of the lessons. Varied images show them on arms, with
things, in rooms, through a lens (`dne synthesize --varied`). This card is written by
`python scripts/model_card.py` from `results/`.

## Use

To learn, to test code, to start training from. They have seen rendered hands only, of one hand
model: on photographs they are a demonstration, and no decision should rest on them.

## In the studio

{steps[0]:,} image-steps of the coarse stage, which is `shipped-coarse`; then {steps[1]:,} more of
it, and {steps[2]:,} of all, on images of the package's own (`dne synthesize`), with the paper's
augmentations but for its noise (`config.py`); from random weights, no ImageNet. Device:
{coarse["device"]}, then {full["device"]}. Code: commit {full["commit"]} at the end; configurations
and logs of all runs are in `results/tiny_coarse`, `results/tiny_coarse_longer` and `results/tiny`.

{legs_table(coarse, longer, full)}

{JOINED}

{measured(studio, "shipped")}

## As in photographs

From the full network as it was after full8, {steps[3]:,} image-steps more, on varied images. The
modules of varied-full were put on varied-coarse4 (`scripts/join_weights.py`), and varied-full2 went
on with both; the weights are the mean of before and after it (`scripts/average_weights.py`).
Device: {varied["device"]}. Code: commit {varied["commit"]}; configurations and logs are in
`results/tiny_varied`.

{legs_table(varied)}

{measured(photographs, "shipped-varied")}

## Limits

The figures do not compare with those on InterHand2.6M. Nothing keeps two hands from passing through
each other, and their distance in depth is a guess.

## Licence

MIT, like the code: the hand model is CC0 and all images are rendered from it.
"""


if __name__ == "__main__":
    write_bytes(CARD, card(ROOT / "results").encode())
    print(CARD)
