"""Are two pictures the same photo? Align their thumbnails, then compare what is left.

The strict second look behind the perceptual hash. It allows for what resizing, compression, light
and a cut border do to a photo, and nothing else, so two photos of one scene stay two photos.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from workbench.data.audit.facts import COLOUR_SIDE, SIDE, unpack

# How far a true copy may be off in each way, were it perfect in all others. Together the shares
# must stay below SAME: of 4 500 copies made in nine ways of hands, blood cells and drawn signs none
# came above 0.83, of 60 million other pairs none below 0.99 but one: a field photographed twice.
GREY_SCALE = 0.0325  # missing correlation of the aligned greys
DETAIL_SCALE = 0.117  # missing correlation of small patches, without light and large shapes
COLOUR_SCALE = 5.2  # mean difference of the colour planes, in levels, after the same light
COLOUR_SCALE_PER_MOTION = 208.0  # and this much more: coarse planes shift less exactly than greys
LIGHT_SCALE = 0.325  # a tenth lighter or darker, with room for clipping
MOTION_SCALE = 0.0715  # border that was cut, as a share of a side
SAME = 0.96
MAXIMUM_CUT = 0.055  # what is compared lies inside whatever border up to this was cut
MINIMUM_CONTRAST = 1.5  # standard deviation in levels under which a thumbnail says nothing

COARSE_STEPS, FINE_STEPS = 5, 3
PATCH = 6  # pixels a side
PATCH_NOISE = 0.7  # levels
# Below this correlation of the halved, roughly aligned thumbnails no fine alignment helps: the
# worst true pair had 0.96, most false ones have less than 0.8.
HOPELESS = 0.93


def compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Say how far pictures are apart, pair by pair; 0 for equal ones.

    Both are thumbnail records, uint8 [pairs, RECORD_BYTES].
    """
    grey_a, colour_a = unpack(first)
    grey_b, colour_b = unpack(second)
    grey_a, grey_b = _blur(grey_a, 0.8), _blur(grey_b, 0.8)
    scale, shift, grey = _align_roughly(grey_a, grey_b)
    detail, colour, light, motion = np.zeros((4, len(grey)), np.float32)
    hope = grey >= HOPELESS
    if hope.any():
        grey_a, grey_b, scale, shift = grey_a[hope], grey_b[hope], scale[hope], shift[hope]
        scale, shift = align(grey_a, grey_b, scale, shift, FINE_STEPS)
        moved = _warp(grey_b, scale, shift)
        grey[hope] = _correlation(grey_a, moved)
        detail[hope] = _patch_correlation(grey_a - _blur(grey_a, 1.5), moved - _blur(moved, 1.5))
        light[hope], gain = _light(grey_a, moved)
        colour[hope] = _colour_difference(colour_a[hope], colour_b[hope], gain, scale, shift)
        motion[hope] = _motion(scale, shift)
    shares = [(1 - grey) / GREY_SCALE, (1 - detail) / DETAIL_SCALE,
              colour / (COLOUR_SCALE + COLOUR_SCALE_PER_MOTION * motion),
              light / LIGHT_SCALE, motion / MOTION_SCALE]  # fmt: skip
    return np.linalg.norm(shares, axis=0)


def _align_roughly(grey_a: np.ndarray, grey_b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Align blurred, halved pictures, so that a cut of several pixels is within reach."""
    rows = (grey[:, ::2] + grey[:, 1::2] for grey in (grey_a, grey_b))
    small_a, small_b = (_blur((row[:, :, ::2] + row[:, :, 1::2]) / 4, 0.8) for row in rows)
    scale = np.ones((len(grey_a), 2), np.float32)
    shift = np.zeros((len(grey_a), 2), np.float32)
    scale, shift = align(small_a, small_b, scale, shift, COARSE_STEPS)
    return scale, shift, _correlation(small_a, _warp(small_b, scale, shift))


def align(
    grey_a: np.ndarray, grey_b: np.ndarray, scale: np.ndarray, shift: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Refine scale and shift, each [pairs, 2] as (y, x), that lay `grey_b` over `grey_a`.

    Inverse-compositional Gauss–Newton (Baker and Matthews 2004): the template is derived once.
    """
    template = _normalise(grey_a)
    slopes = _slopes(template)
    normal = slopes @ slopes.transpose(0, 2, 1)
    # keeps featureless pictures where they are instead of dividing by nothing
    stiffness = 1e-3 * np.trace(normal, axis1=1, axis2=2) + 1e-6
    normal += np.eye(4, dtype=np.float32) * stiffness[:, None, None]
    for _ in range(steps):
        error = _inner(_normalise(_warp(grey_b, scale, shift)) - template)
        step = np.linalg.solve(normal, slopes @ error[:, :, None])[..., 0]
        step = np.clip(step, -0.05, 0.05)
        growth = 1 + step[:, :2]
        shift = np.clip(shift - scale * step[:, 2:] / growth, -0.1, 0.1)
        scale = np.clip(scale / growth, 0.85, 1.18)
    return scale, shift


def _inner(pictures: np.ndarray) -> np.ndarray:
    """Take what both pictures show whatever border was cut: float32 [pairs, pixels]."""
    side = pictures.shape[-1]
    margin = math.ceil(MAXIMUM_CUT * side)
    inner = pictures[..., margin : side - margin, margin : side - margin]
    return inner.reshape(*pictures.shape[:-2], (side - 2 * margin) ** 2)


def _position(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)


def _blur(pictures: np.ndarray, sigma: float) -> np.ndarray:
    """Blur [pairs, side, side] without leaking from one picture into the next."""
    matrix = _blur_matrix(pictures.shape[-1], sigma)
    return matrix @ pictures @ matrix.T


@cache
def _blur_matrix(side: int, sigma: float) -> np.ndarray:
    distance = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _warp(pictures: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    rows = _sampling(scale[:, 0], shift[:, 0], pictures.shape[1])
    columns = _sampling(scale[:, 1], shift[:, 1], pictures.shape[2])
    return rows @ pictures @ columns.transpose(0, 2, 1)


def _sampling(scale: np.ndarray, shift: np.ndarray, side: int) -> np.ndarray:
    """Write linear interpolation at `scale * x + shift` as a matrix [pairs, side, side]."""
    source = scale[:, None] * _position(side) + shift[:, None]
    source = np.clip((source + 0.5) * side - 0.5, 0, side - 1)
    return np.maximum(0, 1 - np.abs(source[:, :, None] - np.arange(side, dtype=np.float32)))


def _normalise(pictures: np.ndarray) -> np.ndarray:
    inner = _inner(pictures)
    centre = inner.mean(axis=1)[:, None, None]
    spread = inner.std(axis=1)[:, None, None]
    return (pictures - centre) / np.maximum(spread, MINIMUM_CONTRAST)


def _slopes(template: np.ndarray) -> np.ndarray:
    """Derive the template by (scale y, scale x, shift y, shift x): [pairs, 4, pixels]."""
    side = template.shape[-1]
    position = _position(side)
    down, right = np.gradient(template, 1 / side, axis=(1, 2))
    return _inner(np.stack([down * position[:, None], right * position, down, right], axis=1))


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = _inner(first), _inner(second)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    energy = np.sqrt(np.vecdot(a, a) * np.vecdot(b, b))
    return np.vecdot(a, b) / np.maximum(energy, 1e-6)


def _patch_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate patch by patch, so that a plain wall counts as much as the sign before it.

    Two photos may show the same thing at the same place, but not the same grain around it. Patches
    with less than `PATCH_NOISE` levels of contrast fade out: there only compression speaks.
    """
    a, b = _patches(first), _patches(second)
    contrast = np.sqrt(np.vecdot(a, a) * np.vecdot(b, b)) / PATCH**2
    correlation = np.vecdot(a, b) / PATCH**2 / np.maximum(contrast, 1e-6)
    weight = contrast / (contrast + PATCH_NOISE**2)
    return (weight * correlation).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-6)


def _patches(pictures: np.ndarray) -> np.ndarray:
    """Cut the inner part into patches without their mean: [pairs, patches, PATCH * PATCH]."""
    side = SIDE - 2 * math.ceil(MAXIMUM_CUT * SIDE)
    count, whole = side // PATCH, side // PATCH * PATCH
    squares = _inner(pictures).reshape(len(pictures), side, side)[:, :whole, :whole]
    squares = squares.reshape(len(squares), count, PATCH, count, PATCH).transpose(0, 1, 3, 2, 4)
    patches = squares.reshape(len(squares), count * count, PATCH * PATCH)
    return patches - patches.mean(axis=2, keepdims=True)


def _light(grey_a: np.ndarray, grey_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the change of light, and the factor that takes the colours of b to those of a.

    Light is either a factor or an offset; whichever explains the pair with the smaller change.
    """
    a, b = _inner(grey_a).mean(axis=1), _inner(grey_b).mean(axis=1)
    return np.abs(a - b) / np.maximum(128, np.maximum(a, b)), np.maximum(a, 1) / np.maximum(b, 1)


def _colour_difference(
    colour_a: np.ndarray, colour_b: np.ndarray, gain: np.ndarray, scale: np.ndarray,
    shift: np.ndarray,
) -> np.ndarray:  # fmt: skip
    rows = _sampling(scale[:, 0], shift[:, 0], COLOUR_SIDE)[:, None]
    columns = _sampling(scale[:, 1], shift[:, 1], COLOUR_SIDE)[:, None]
    moved = rows @ colour_b @ columns.transpose(0, 1, 3, 2)
    ways = (moved * gain[:, None, None, None], moved)  # light is a factor, or an offset
    apart = (np.abs(colour_a - way)[:, :, 1:-1, 1:-1].mean(axis=(1, 2, 3)) for way in ways)
    return np.minimum(*apart)


def _motion(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Give the border that must have been cut, as a share of a side.

    A cut moves both edges inwards or leaves them. Edges that move the same way mean that the
    thing moved in front of the camera: another photo. That counts double.
    """
    low = 0.5 - (scale / 2 - shift)
    high = 0.5 - (scale / 2 + shift)
    against = np.maximum(0, -np.sign(low) * np.sign(high)) * np.minimum(np.abs(low), np.abs(high))
    cut = np.maximum(np.abs(low), np.abs(high))
    return (cut + 2 * against).max(axis=1)
