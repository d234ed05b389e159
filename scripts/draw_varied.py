"""Draw docs/varied.png: the first images of `dne synthesize --varied`.

python scripts/draw_varied.py
"""

import io
import tempfile
from pathlib import Path

from PIL import Image

from dne_lib.files import read_json, write_bytes
from dne_lib.synthetic.synthesize import synthesize

ROWS, COLUMNS = 4, 6
SIZE = (168, 110)  # pixels of each image
SEED = 6


def main() -> None:
    """Make the images, put them side by side, write the picture with 256 colours."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        synthesize(root, train=ROWS * COLUMNS, test=0, seed=SEED, varied=True)
        labels = read_json(root / "annotations/train/InterHand2.6M_train_data.json")
        files = [root / "images" / "train" / image["file_name"] for image in labels["images"]]
        images = [Image.open(file).resize(SIZE, Image.Resampling.BOX) for file in files]
    sheet = Image.new("RGB", (COLUMNS * SIZE[0], ROWS * SIZE[1]))
    for i, image in enumerate(images):
        sheet.paste(image, (i % COLUMNS * SIZE[0], i // COLUMNS * SIZE[1]))
    palette = sheet.quantize(256)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG", optimize=True)
    target = Path(__file__).parent.parent / "docs" / "varied.png"
    write_bytes(target, buffer.getvalue())
    print(f"docs/varied.png: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
