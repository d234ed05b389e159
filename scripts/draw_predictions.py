"""Draw docs/predictions.png: what `dne predict` finds in images of people it has never seen.

python scripts/draw_predictions.py
"""

import io
import tempfile
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

import dne_lib
from dne_lib.files import read_json, write_bytes
from dne_lib.plots import contact_sheet, draw_hands, png
from dne_lib.predict import Prediction, overlay, predict
from dne_lib.synthetic.synthesize import synthesize

COUNT = 7
SEED = 7
SIZE = 256  # pixels of each picture
AROUND = 1.5  # of the hands' extent: what is shown of the image
TURN = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)  # a quarter about the vertical


def main() -> None:
    """Make the first images of a test split, predict from them whole, draw them from two sides."""
    network, config = dne_lib.load_network("shipped-varied")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        synthesize(root, train=0, test=COUNT, seed=SEED, varied=True)
        labels = read_json(root / "annotations/test/InterHand2.6M_test_data.json")
        files = [root / "images" / "test" / image["file_name"] for image in labels["images"]]
        found = [predict(network, config, file) for file in files]
    rows = [
        [closer(p.image, p) for p in found],
        [closer(overlay(p), p) for p in found],
        [from_the_right(p) for p in found],
    ]
    sheet = contact_sheet(rows, [""] * COUNT, ["image", "prediction", "from the right"])
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(sheet))).convert("RGB").quantize(256).save(
        buffer, format="PNG", optimize=True
    )
    target = Path(__file__).parent.parent / "docs" / "predictions.png"
    write_bytes(target, buffer.getvalue())
    print(f"docs/predictions.png: {target.stat().st_size / 1000:.0f} kB")


def closer(
    picture: UInt8[np.ndarray, "height width 3"], p: Prediction
) -> Float[np.ndarray, "size size 3"]:
    """A square around the hands, as far as the image goes."""
    low, high = p.points[p.present].min(axis=(0, 1)), p.points[p.present].max(axis=(0, 1))
    side = int(min(AROUND * (high - low).max(), *picture.shape[:2]))
    limit = np.array(picture.shape[1::-1]) - side
    x, y = np.clip((low + high - side) / 2, 0, limit).astype(int)
    square = cv2.resize(picture[y : y + side, x : x + side], (SIZE, SIZE))
    return square / np.float32(255)


def from_the_right(p: Prediction) -> Float[np.ndarray, "size size 3"]:
    """The meshes as somebody sees them who stands to the right of what the camera sees."""
    middle = p.placed[p.present].mean(axis=(0, 1))
    turned = (p.placed - middle) @ TURN.T
    scale = SIZE / 2 / AROUND / np.abs(turned[p.present][..., :2]).max()
    points = turned[..., :2].astype(np.float64) * scale + SIZE / 2
    turned[..., 2] += 1  # metres, from the eye
    empty = np.full((SIZE, SIZE, 3), 0.93, np.float32)
    return draw_hands(empty, points, turned, p.faces, p.present, opacity=1)


if __name__ == "__main__":
    main()
