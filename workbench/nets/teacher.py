"""The large networks a student can learn from, from keras applications, with our logits on top.

Each takes float pixels in [0, 255] and carries its own preprocessing, so nobody outside needs to
know it. The Lite teachers are the exception: they take what a student takes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tf_keras as keras
from tf_keras import layers

from workbench.data.views import View
from workbench.nets.lite import build_lite, head, restartable_randomness
from workbench.settings import TEACHER_SIZES, Settings, TeacherSettings

# Of ImageNet, RGB in [0, 1]; what the published EfficientNet weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STDDEV = (0.229, 0.224, 0.225)
# Of ImageNet, BGR in [0, 255]; what the published ResNet weights were trained with.
CAFFE_MEAN = (103.939, 116.779, 123.68)


def build_teacher(settings: TeacherSettings, num_classes: int) -> keras.Model:
    """Build the teacher network that `settings` describe; it gives logits [N, C]."""
    size = teacher_size(settings)
    if settings.arch.startswith("efficientnet_lite"):
        return build_lite(
            lite_variant(settings.arch),
            num_classes,
            input_size=size,
            dropout=settings.dropout,
            drop_connect=settings.drop_connect,
            normalization_momentum=settings.normalization_momentum,
        )
    # Keras numbers unnamed layers through a global counter; names must not depend on history.
    keras.backend.reset_uids()
    with restartable_randomness():
        image = keras.Input((size, size, 3), name="image")
        backbone = _backbone(settings, image)
        x = layers.GlobalAveragePooling2D(name="avg_pool")(backbone.output)
        logits = head(x, num_classes, settings.dropout)
        network = keras.Model(image, logits, name=settings.arch)
    _set_constants(network, settings.normalization_momentum)
    return network


def teacher_size(settings: TeacherSettings) -> int:
    auto = settings.input_size == "auto"
    return TEACHER_SIZES[settings.arch] if auto else settings.input_size


def teacher_view(settings: Settings) -> View:
    """What the teacher sees."""
    lite = settings.teacher.arch.startswith("efficientnet_lite")
    return View(settings.teacher_size, "lite" if lite else "none")


def student_view(settings: Settings) -> View:
    """What the student sees."""
    return View(settings.student_size, "lite")


def lite_variant(arch: str) -> str:
    return arch.removeprefix("efficientnet_")


def _backbone(settings: TeacherSettings, image) -> keras.Model:
    applications = keras.applications
    common = {"include_top": False, "weights": None}
    if settings.arch.startswith("efficientnet"):
        build: Callable = getattr(applications, "EfficientNet" + settings.arch[-2:].upper())
        return build(input_tensor=image, drop_connect_rate=settings.drop_connect, **common)
    if settings.arch.startswith("resnet"):
        build = getattr(applications, "ResNet" + settings.arch.removeprefix("resnet"))
        return build(input_tensor=_caffe_preprocessing(image), **common)
    scaled = layers.Rescaling(1 / 127.5, offset=-1, name="preprocessing")(image)
    return applications.MobileNetV2(input_tensor=scaled, **common)


def _caffe_preprocessing(image):
    shifted = layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEAN], name="preprocessing")
    return shifted(image[..., ::-1])


def _set_constants(network: keras.Model, momentum: float | None) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            # Keras divides by the root of the variance; the published files hold the deviation
            # there and Keras mends it with an extra layer. The true variance needs no mending.
            variance = np.square(IMAGENET_STDDEV)
            layer.set_weights([np.asarray(IMAGENET_MEAN), variance, np.asarray(0)])
        if momentum is not None and isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
