"""What augmentation does to a photo: as a sheet of figures, and under sliders in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as ipw
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from workbench.data.letterbox import letterbox
from workbench.data.views import Purpose, SheetRow, augment, random_stream, view_side
from workbench.parameters import flat_values, nested
from workbench.settings import AugmentationSettings, Settings
from workbench.show.figures import INK

SIDE_INCHES = 1.5
VIEWS = 8  # of the photo under the sliders
VIEW_SIDE = 150  # pixels
OF_BATCHES = "mixup"  # blends two photos: nothing to see on one
# Where a slider ends; beyond, hardly anything is left to recognise.
ENDS = {"random_rotation_factor": 0.25, "random_shift_factor": 0.5, "perspective": 0.3,
        "gaussian_noise_stddev": 0.2, "color_jitter.hue": 0.5, "cutout.num_patches": 8}  # fmt: skip


def sample_sheet(rows: Sequence[SheetRow]) -> Figure:
    """Draw one row an image, from the file to both networks, which get the same view."""
    epochs = [f"epoch {number}" for number in range(1, len(rows[0].augmented) + 1)]
    heads = ["as read", *epochs, *rows[0].inputs]
    pictures = [[row.original, *row.augmented, *row.inputs.values()] for row in rows]
    words = f"{len(rows)} images as read, augmented, and as the networks see them"
    return _grid(pictures, heads, words)


def pictures_figure(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Draw pictures side by side, each under its name."""
    return _grid([list(pictures.values())], list(pictures), f"One photo: {', '.join(pictures)}")


def _grid(rows: Sequence[Sequence[np.ndarray]], heads: Sequence[str], words: str) -> Figure:
    size = (SIDE_INCHES * len(heads), SIDE_INCHES * len(rows) + 0.2)
    figure = Figure(figsize=size, layout="tight")
    for ax, picture in zip(figure.subplots(len(rows), len(heads), squeeze=False).ravel(),
                           (picture for row in rows for picture in row), strict=True):  # fmt: skip
        ax.imshow(picture)
        ax.set_axis_off()
    for ax, head in zip(figure.axes, heads, strict=False):
        ax.set_title(head, fontsize=9, color=INK)
    figure.set_label(words)
    return figure


def augmentation_panel(photo: np.ndarray, settings: Settings) -> ipw.VBox:
    """Return sliders over the knobs of augmentation; each move redraws the views of a photo.

    Below stands what to write into the parameter file for the chosen values. Nothing is changed.
    """
    current = settings.augmentation
    controls = {name: _control(name, value) for name, value in _knobs(current).items()}
    shown, words = ipw.Image(format="png"), ipw.HTML()

    def draw(_: object = None) -> None:
        values = nested({name: one.value for name, one in controls.items()})
        chosen = AugmentationSettings(**values, mixup=current.mixup)
        shown.value = _strip(views_of(photo, chosen, settings))
        words.value = f"<pre>{html.escape(yaml_lines(current, chosen))}</pre>"

    for control in controls.values():
        control.observe(draw, "value")
    draw()
    layout = ipw.Layout(grid_template_columns="repeat(auto-fill, minmax(320px, 1fr))")
    return ipw.VBox([ipw.GridBox(list(controls.values()), layout=layout), shown, words])


def views_of(
    photo: np.ndarray, chosen: AugmentationSettings, settings: Settings, count: int = VIEWS
) -> list[np.ndarray]:
    """Return the views of a photo in the first epochs, letterboxed to one size."""
    longest = view_side(tuple(settings.input_sizes.values()))
    streams = (random_stream(Purpose.AUGMENT, settings.seed, epoch, 0) for epoch in range(count))
    return [letterbox(augment(photo, rng, chosen, longest), VIEW_SIDE) for rng in streams]


def yaml_lines(before: AugmentationSettings, chosen: AugmentationSettings) -> str:
    """Write the knobs that differ from the run's as lines of a parameter file."""
    old, new = _knobs(before), _knobs(chosen)
    groups: dict[str, dict[str, Any]] = {}
    lines = []
    for name in (name for name in new if new[name] != old[name]):
        group, _, key = name.rpartition(".")
        if group:
            groups.setdefault(group, {})[key] = new[name]
        else:
            lines.append(f"  {name}: {_yaml(new[name])}")
    for group, keys in groups.items():
        inside = ", ".join(f"{key}: {_yaml(value)}" for key, value in keys.items())
        lines.append(f"  {group}: {{{inside}}}")
    return "\n".join(["augmentation:", *lines]) if lines else "as this run has it"


def _yaml(value: bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _knobs(settings: AugmentationSettings) -> dict[str, Any]:
    """List the knobs that show on one photo, those of groups as group.knob."""
    return flat_values(settings.model_dump(exclude={OF_BATCHES}))


def _control(name: str, value: Any) -> ipw.Widget:
    common = {"value": value, "description": name.replace("_", " ").replace(".", ": ")}
    common["style"] = {"description_width": "190px"}
    if isinstance(value, bool):
        return ipw.Checkbox(**common, indent=False)
    if isinstance(value, int):
        return ipw.IntSlider(**common, min=0, max=max(ENDS[name], value), continuous_update=False)
    low, end = (0.05, 1.0) if name == "random_crop_scale" else (0.0, ENDS.get(name, 0.95))
    span = {"min": min(low, value), "max": max(end, value), "step": 0.01}
    return ipw.FloatSlider(**common, **span, continuous_update=False)


def _strip(views: Sequence[np.ndarray]) -> bytes:
    """Join views to one PNG, four in a row."""
    rows = [np.hstack(views[start : start + 4]) for start in range(0, len(views), 4)]
    buffer = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(buffer, "PNG")
    return buffer.getvalue()
