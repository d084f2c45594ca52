"""Do all kernels decide alike on the demo's validation and test images?

Takes a finished `outputs/demo`, its tuned thresholds and the file that ships. Three readings of the
same photos: TFLite's reference kernels, LiteRT with XNNPACK, and the harness that an app is given.

    python -m tests.prove flips
"""

from __future__ import annotations

from typing import Any

import numpy as np

SPLITS = ("val", "test")
CLOSE = 6  # levels by which TFLite's own kernels differ from each other at most


def run() -> dict[str, Any]:
    """Compare decisions and raw outputs of the kernels, photo by photo."""
    from workbench.errors import MissingInputError
    from workbench.run import existing_run, project_root

    folder = project_root() / "outputs/demo"
    if not (folder / "inference_config.json").exists():
        raise MissingInputError(f"No finished run in {folder}. Run `make demo` first")
    the_run = existing_run(folder)
    dataset = the_run.dataset()
    return {name: _compare(the_run, dataset.split(name)) for name in SPLITS}


def _compare(the_run: Any, split: Any) -> dict[str, Any]:
    from workbench.deploy import tflite, verify

    config = the_run.read_json(verify.CONFIG)
    model = the_run.path(config["model"]["file"]).read_bytes()
    images = list(_letterboxed(the_run, split))
    reference = tflite.run_tflite(model, images, reference=True)
    fast = tflite.run_tflite(model, images)
    phone = _phone(the_run, split, model, config)
    return {
        "images": len(images),
        "decisions": int(fast.size),
        "levels": int(np.abs(reference.astype(int) - fast).max()),
        "flips": _flips(reference, fast, split, config),
        "phone_flips": len(_flips(fast, phone, split, config)),
        "phone_levels": int(np.abs(phone.astype(int) - fast).max()),
    }


def _letterboxed(the_run: Any, split: Any) -> Any:
    from workbench.data.views import letterboxed

    return letterboxed(split, the_run.settings.student_size, the_run.settings)


def _phone(the_run: Any, split: Any, model: bytes, config: dict[str, Any]) -> np.ndarray:
    """Answer as the bundle's own code does, from decoded pixels on."""
    from workbench.data.decode import decode_image
    from workbench.deploy import verify

    interpreter, table = verify.open_model(model), verify.input_table(config["input"])
    size, dataset = config["input"]["width"], the_run.settings.dataset
    squares = (
        verify.letterbox(decode_image(split.path(row), dataset), size) for row in range(len(split))
    )
    return np.stack([verify.run_model(interpreter, table[square]) for square in squares])


def _flips(before: np.ndarray, after: np.ndarray, split: Any, config: dict[str, Any]) -> list[dict]:
    """List decisions that changed, with the levels on both sides of the threshold."""
    needed = np.array([entry["integer"] for entry in config["thresholds"]["classes"]])
    changed = (before >= needed) != (after >= needed)
    return [
        {"image": split.filepaths[row], "label": split.classes[column],
         "reference": int(before[row, column]), "litert": int(after[row, column]),
         "threshold": int(needed[column])}
        for row, column in np.argwhere(changed)
    ]  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, found in figures.items():
        lines.append(
            f"{name}: {found['images']} images, {found['decisions']} decisions; "
            f"reference kernels and LiteRT: {len(found['flips'])} flips, at most {found['levels']} "
            f"levels apart; LiteRT and the app's harness: {found['phone_flips']} flips, "
            f"{found['phone_levels']} levels"
        )
        lines += [f"  {_explained(flip)}" for flip in found["flips"]]
    return "\n".join(lines)


def _explained(flip: dict[str, Any]) -> str:
    apart = abs(flip["reference"] - flip["litert"])
    reason = (
        "the kernels round sums differently and the score lies at the threshold"
        if apart <= CLOSE
        else "NOT explained by rounding"
    )
    return (
        f"{flip['image']}, {flip['label']}: {flip['reference']} and {flip['litert']} beside a "
        f"threshold of {flip['threshold']}; {reason}"
    )
