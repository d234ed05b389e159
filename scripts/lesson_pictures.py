"""Cut README's small pictures out of the lessons' own outputs.

    python scripts/lesson_pictures.py

Each notebook has one cell tagged `picture`; its first PNG becomes docs/lessons/NN.png.
"""

import base64
from pathlib import Path

import cv2
import nbformat
import numpy as np

from dne_lib.files import InputError, write_bytes

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT = 320, 160


def picture(path: Path) -> np.ndarray:
    """The picture of a lesson, BGR.

    Raises:
        InputError: no cell, or several, carry the tag, or the cell shows no PNG.
    """
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "picture" in cell.metadata.get("tags", [])]
    shown = [
        output.data["image/png"]
        for cell in tagged
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if len(tagged) != 1 or not shown:
        raise InputError(
            f"{path}: {len(tagged)} cells are tagged `picture`, with {len(shown)} PNGs: tag one "
            "cell that shows a figure"
        )
    encoded = np.frombuffer(base64.b64decode(shown[0]), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert image is not None  # a notebook that ran shows whole PNGs
    return image


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The picture inside WIDTH x HEIGHT, on white."""
    scale = min(WIDTH / image.shape[1], HEIGHT / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    page = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    top, left = (HEIGHT - size[1]) // 2, (WIDTH - size[0]) // 2
    page[top : top + size[1], left : left + size[0]] = small
    return page


def main() -> None:
    """Write all of them."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        encoded = cv2.imencode(".png", thumbnail(picture(path)), [cv2.IMWRITE_PNG_COMPRESSION, 9])[
            1
        ]
        target = ROOT / "docs" / "lessons" / f"{path.stem[:2]}.png"
        write_bytes(target, encoded.tobytes())
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
