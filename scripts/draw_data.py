"""Draw docs/data.png: built-in images, the true meshes over them, and the five maps.

python scripts/draw_data.py
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from dne_lib.files import write_bytes
from dne_lib.lessons import few_samples
from dne_lib.mano import HandModel
from dne_lib.plots import (
    MAP_TITLES,
    MAPS,
    contact_sheet,
    draw_crop,
    enlarged,
    map_pictures,
    png,
)

RIGHT, LEFT, BOTH = (True, False), (False, True), (True, True)
ROWS = (RIGHT, BOTH, BOTH, LEFT)
COUNT = 8  # images to take them from
SEED = 4
LEVELS = 64  # of each colour: smaller than 256, and smoother than a palette of 256 for these maps


def main() -> None:
    """Take the first images of one hand and of two, draw a row of each."""
    samples = [{k: v.numpy() for k, v in each.items()} for each in few_samples(COUNT, SEED)]
    rest = {kind: [s for s in samples if tuple(s["present"]) == kind] for kind in set(ROWS)}
    faces = HandModel().faces
    rows = [row(rest[kind].pop(0), faces) for kind in ROWS]
    sheet = contact_sheet(rows, ["image", "mesh", *MAP_TITLES])
    step = 255 / (LEVELS - 1)
    rounded = [round(round(value / step) * step) for value in range(256)]
    picture = Image.open(io.BytesIO(png(sheet))).convert("RGB").point(3 * rounded)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    target = Path(__file__).parent.parent / "docs" / "data.png"
    write_bytes(target, buffer.getvalue())
    print(f"docs/data.png: {target.stat().st_size / 1000:.0f} kB")


def row(sample: dict[str, np.ndarray], faces: np.ndarray) -> list[Float[np.ndarray, "_ _ 3"]]:
    """An image, its true mesh over it, its maps."""
    mesh = draw_crop(
        sample["image"], sample["vertices_2d"], sample["vertices"], sample["camera"], faces,
        sample["present"],
    )  # fmt: skip
    maps = map_pictures(**{name: sample[name] for name in MAPS})
    return [enlarged(sample["image"]), mesh, *maps]


if __name__ == "__main__":
    main()
