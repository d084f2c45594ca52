"""The networks that the settings describe: a teacher from keras applications, a Lite student.

Teachers take float pixels in [0, 255] and carry their own preprocessing. The Lite teachers are the
exception: they take what a student takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tf_keras as keras
from tf_keras import layers

from workbench import files
from workbench.data.views import View
from workbench.nets.devices import choose_strategy, precision, prepare_devices, seed_everything
from workbench.nets.lite import build_lite, head, restartable_randomness
from workbench.nets.weights import fits_head, imagenet_weights, load_weights_into
from workbench.settings import Settings, StudentSettings, TeacherSettings

logger = logging.getLogger(__name__)
# Of ImageNet, RGB in [0, 1]; what the published EfficientNet weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STDDEV = (0.229, 0.224, 0.225)
# Of ImageNet, BGR in [0, 255]; what the published ResNet weights were trained with.
CAFFE_MEAN = (103.939, 116.779, 123.68)


Classes = int | Sequence[str]  # how many, or their names: a head is for classes, not for a number


def build_teacher(settings: Settings, classes: Classes) -> keras.Model:
    """Build the teacher with its start weights; it gives logits [N, C]."""
    return _built(settings, classes, "teacher", settings.teacher.arch)


def build_student(settings: Settings, classes: Classes) -> keras.Model:
    """Build the student with its start weights; it gives logits [N, C]."""
    return _built(settings, classes, "student", f"efficientnet_{settings.student.variant}")


def teacher_view(settings: Settings) -> View:
    """What the teacher sees."""
    return View(settings.teacher_size, "lite" if settings.teacher_is_lite else "none")


def student_view(settings: Settings) -> View:
    """What the student sees."""
    return View(settings.student_size, "lite")


VIEWS = {"teacher": teacher_view, "student": student_view}


def product_view(settings: Settings) -> View:
    """What the network that ships sees."""
    return VIEWS[settings.product.network](settings)


def student_structure(settings: Settings, num_classes: int) -> keras.Model:
    own = settings.student
    return _lite(own.variant, own, settings.student_size, num_classes)


def teacher_structure(settings: Settings, num_classes: int) -> keras.Model:
    own, size = settings.teacher, settings.teacher_size
    if own.arch.startswith("efficientnet_lite"):
        return _lite(own.arch.removeprefix("efficientnet_"), own, size, num_classes)
    # Keras numbers unnamed layers through a global counter; names must not depend on history.
    keras.backend.reset_uids()
    with restartable_randomness():
        image = keras.Input((size, size, 3), name="image")
        backbone = _backbone(own, image)
        x = layers.GlobalAveragePooling2D(name="avg_pool")(backbone.output)
        logits = head(x, num_classes, own.dropout, own.hidden_units)
        network = keras.Model(image, logits, name=own.arch)
    _set_constants(network, own.normalization_momentum)
    return network


STRUCTURES = {"teacher": teacher_structure, "student": student_structure}


def _built(settings: Settings, classes: Classes, role: str, arch: str) -> keras.Model:
    """Build on the devices in use; seeding right before keeps out what was built earlier."""
    prepare_devices(settings)
    strategy = choose_strategy(settings)
    seed_everything(settings)
    with precision(settings), strategy.scope():
        count = classes if isinstance(classes, int) else len(classes)
        network = STRUCTURES[role](settings, count)
        _load_start_weights(network, role, getattr(settings, role).weights, arch, classes)
    return network


def _load_start_weights(
    network: keras.Model, role: str, source: str, arch: str, classes: Classes
) -> None:
    """Fill the network with what `weights` names; with `none` it stays random."""
    if source == "none":
        return
    if source == "imagenet":
        load_weights_into(network, imagenet_weights(arch, f"{role}.weights"), backbone_only=True)
        return
    path = files.find_upwards(source)
    kept, why = _judge_head(network, path, classes)
    logger.info("%s goes on from %s, %s: %s", role, path, "head kept" if kept else "new head", why)
    load_weights_into(network, path, backbone_only=not kept)


def _judge_head(network: keras.Model, path: Path, classes: Classes) -> tuple[bool, str]:
    """Decide whether the head of a file answers for these classes: names count, not how many."""
    from workbench.data.cells import read_text
    from workbench.data.tables import LABELS

    if not fits_head(network, path):
        return False, "its own is for another number of classes, or it has none"
    table = path.with_name(LABELS)
    if isinstance(classes, int) or not table.is_file():
        return True, f"as many classes, and no {LABELS} beside it says whether they are the same"
    before = read_text(table).removesuffix("\n").split("\n")
    if before == list(classes):
        return True, f"the same classes in {LABELS} beside it"
    return False, f"{LABELS} beside it names other classes ({', '.join(before)})"


def _lite(
    variant: str, own: TeacherSettings | StudentSettings, size: int, num_classes: int
) -> keras.Model:
    shared = {"dropout": own.dropout, "drop_connect": own.drop_connect, "input_size": size}
    shared["hidden_units"] = own.hidden_units
    momentum = own.normalization_momentum
    return build_lite(variant, num_classes, normalization_momentum=momentum, **shared)


def _backbone(own: TeacherSettings, image) -> keras.Model:
    applications = keras.applications
    common = {"include_top": False, "weights": None}
    if own.arch.startswith("efficientnet"):
        build: Callable = getattr(applications, "EfficientNet" + own.arch[-2:].upper())
        return build(input_tensor=image, drop_connect_rate=own.drop_connect, **common)
    if own.arch.startswith("resnet"):
        build = getattr(applications, "ResNet" + own.arch.removeprefix("resnet"))
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
