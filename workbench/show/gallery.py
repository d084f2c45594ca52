"""Pictures with words: the worst mistakes, or what the audit found, and where the network looked.

As a static figure, as a piece of a page that filters by class without a kernel, and for widgets.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from workbench.show.figures import INK, QUIET, described, short

SIDE = 220  # pixels of the longer side: a page with 200 pictures stays below 4 MB
COLUMNS = 4
JPEG_QUALITY = 82
SCRIPT = Path(__file__).with_name("gallery.js")


@dataclass(frozen=True)
class Picture:
    """A small RGB image, what is wrong with it, and the classes it belongs to."""

    image: np.ndarray  # uint8 [h, w, 3]
    title: str
    caption: str
    kind: str
    classes: tuple[str, ...]


def mistake_pictures(
    mistakes: pd.DataFrame,
    load: Callable[[str], np.ndarray],
    heatmaps: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> list[Picture]:
    """Make pictures of `worst_mistakes`; `load` maps a filepath to an RGB image.

    `heatmaps` maps (image, class_index) to a map in 0…1 of any size, drawn over the image.
    """
    pictures = []
    for row in mistakes.to_dict("records"):
        image = load(row["filepath"])
        heat = (heatmaps or {}).get((row["image"], row["class_index"]))
        pictures.append(
            Picture(
                image=shrink(image if heat is None else overlay(image, heat)),
                title=row["class"],
                caption=_sentence(row),
                kind=row["kind"],
                classes=(row["class"],),
            )
        )
    return pictures


def _sentence(row: Mapping[str, object]) -> str:
    verb = "said, not there" if row["kind"] == "false positive" else "there, not said"
    really = ", ".join(row["really"]) or "none of the classes"
    return (
        f"{verb}: {row['probability']:.2f} against {row['threshold']:.2f}. "
        f"Really: {really}. {Path(row['filepath']).name}"
    )


def shrink(image: np.ndarray) -> np.ndarray:
    """Scale an RGB image down to SIDE."""
    small = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    small.thumbnail((SIDE, SIDE))
    return np.asarray(small)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image: yellow where the network looked, darkened where not."""
    height, width = image.shape[:2]
    grown = Image.fromarray(np.asarray(heat, np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    strength = np.clip(np.asarray(grown), 0, 1)[..., None]
    colours = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    mixed = image * (1 - 0.55 * strength) * (0.55 + 0.45 * strength) + colours * 0.55 * strength
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def gallery_figure(pictures: Sequence[Picture], title: str) -> Figure:
    """Draw the pictures in a grid."""
    rows = max(1, -(-len(pictures) // COLUMNS))
    figure = Figure(figsize=(10, 0.5 + 3.5 * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    axes = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for ax, picture in zip(axes, pictures, strict=False):
        ax.imshow(picture.image)
        heading = f"{short(picture.title)}\n{picture.kind}"
        ax.set_title(heading, fontsize=9, color=INK, parse_math=False)
        words = "\n".join(_wrapped(picture.caption))
        ax.set_xlabel(words, fontsize=7, color=QUIET, parse_math=False)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    kinds = pd.Series([picture.kind for picture in pictures]).value_counts()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no pictures"
    return described(axes[0], f"{title}: {counted}.")


def _wrapped(text: str) -> list[str]:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return textwrap.wrap(text, width=40, max_lines=4, placeholder=" …")


def picture_html(picture: Picture) -> str:
    """Return one picture with its words; every name is escaped."""
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    words = html.escape(f"{picture.title}: {picture.kind}. {picture.caption}", quote=True)
    title, caption, kind = (
        html.escape(text) for text in (picture.title, picture.caption, picture.kind)
    )
    classes = html.escape("\n".join(picture.classes), quote=True)
    return (
        f'<figure class="picture" data-classes="{classes}" data-kind="{kind}">'
        f'<img alt="{words}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><b>{title}</b> · {kind}<br>{caption}</figcaption></figure>"
    )


def fragment(pictures: Sequence[Picture], title: str) -> str:
    """Return a gallery for a page; its <script> filters by class and needs its hash allowed."""
    classes = sorted({name for picture in pictures for name in picture.classes})
    kinds = sorted({picture.kind for picture in pictures})
    body = "".join(picture_html(picture) for picture in pictures) or "<p>Nothing to show.</p>"
    return (
        f"<style>{STYLE}</style>"
        f'<section class="picture-gallery" aria-label="{html.escape(title, quote=True)}">'
        f"<h3>{html.escape(title)}</h3><p>{_select('class', classes)} {_select('kind', kinds)}"
        f'<span class="shown" aria-live="polite"></span></p><div class="pictures">{body}</div>'
        f"</section><script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    )


def _select(name: str, values: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{html.escape(v, quote=True)}">{html.escape(v)}</option>' for v in values
    )
    return (
        f'<label>{name.capitalize()} <select data-filter="{name}">'
        f'<option value="">all</option>{options}</select></label>'
    )


STYLE = (
    ".picture-gallery{font:15px/1.45 system-ui,sans-serif;color:#1f2933}"
    ".picture-gallery .pictures{display:grid;gap:1.2rem;"
    "grid-template-columns:repeat(auto-fill,minmax(13rem,1fr))}"
    ".picture-gallery figure{margin:0}.picture-gallery img{width:100%;border-radius:6px}"
    ".picture-gallery figcaption{font-size:.85rem;color:#52606d;overflow-wrap:anywhere}"
    ".picture-gallery select{font:inherit;margin-right:1rem;max-width:100%}"
    ".picture-gallery [hidden]{display:none}"
)
