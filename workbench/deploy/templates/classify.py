"""Classify images with the shipped model: LiteRT, NumPy and Pillow, nothing else.

    python classify.py photo.jpg ...

`verify.py` in the folder above holds the letterbox and the decisions; this adds decoding and words.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(FOLDER))

import verify  # noqa: E402


def read_image(path: str) -> np.ndarray:
    """Decode upright RGB bytes [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def main(paths: list[str]) -> None:
    config = json.loads((FOLDER / verify.CONFIG).read_text(encoding="utf-8"))
    interpreter = verify.open_model((FOLDER / config["model"]["file"]).read_bytes())
    table = verify.input_table(config["input"])
    for path in paths:
        square = verify.letterbox(read_image(path), config["input"]["width"])
        raw = verify.run_model(interpreter, table[square])
        labels = verify.decide(raw[None], config)[0]
        sys.stdout.write(f"{path}: {', '.join(labels) or 'none of the classes'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
