"""Depthwise kernels under fake quantisation: a range for each channel, as the phone file has it."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SIDE = 24


@pytest.fixture(scope="module")
def prove():
    """The long proof, of which this is a small sample."""
    from tests.prove import depthwise

    return depthwise


@pytest.fixture(scope="module")
def photos(prove):
    return prove.blobs(24, SIDE, seed=1)


@pytest.fixture(scope="module")
def network(prove, photos):
    import tf_keras as keras
    from tf_keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv")(image)
    x = layers.BatchNormalization(momentum=0.5, name="conv_bn")(x)
    x = layers.ReLU(6.0, name="conv_activation")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.5, name="depthwise_bn")(x)
    x = layers.ReLU(6.0, name="depthwise_activation")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return prove.settled(keras.Model(image, layers.Dense(4, name="logits")(x)), photos)


@pytest.mark.parametrize("log_sd", [1.0, 1.5])
def test_rescaled_channels_cost_qat_no_more_than_ptq(prove, network, photos, log_sd):
    rescaled = prove.rescaled(network, log_sd)
    found = prove.errors(network, rescaled, photos, prove.blobs(32, SIDE, seed=0))
    assert found["float_moved"] < 1e-4
    assert found["qat"] <= 1.5 * found["ptq"]
    assert found["qat_reference_kernels"] <= 1.5 * found["ptq"]


def converted(prove, network, photos):
    from workbench.deploy import convert, quantize

    quantized = quantize.fake_quantize(network, photos)
    quantize.cover_logits(network, quantized, photos)
    return quantized, convert.convert_quantized(quantized, prove.EXPORT)


def depthwise_integers(model: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read the weights of the one depthwise operator, and its scales."""
    from workbench.deploy import flatbuffer

    tree = flatbuffer.parse(model)
    graph = tree.subgraphs[0]
    (operator,) = [
        one for one in graph.operators
        if flatbuffer.operator_name(tree, one) == flatbuffer.Operator.DEPTHWISE_CONV_2D
    ]  # fmt: skip
    tensor = graph.tensors[operator.inputs[1]]
    return flatbuffer.constant(tree, tensor), np.asarray(tensor.quantization.scale)


@pytest.mark.parametrize("log_sd", [0.0, 1.5])
def test_the_file_holds_the_integers_that_training_rounds_to(prove, network, photos, log_sd):
    rescaled = prove.rescaled(network, log_sd)
    layer, norm = rescaled.get_layer("depthwise"), rescaled.get_layer("depthwise_bn")
    (kernel,) = layer.get_weights()
    scale = np.abs(kernel).max((0, 1)) / 127  # [C, 1]
    weights, scales = depthwise_integers(converted(prove, rescaled, photos)[1])
    assert (weights[0] == np.rint(kernel / scale)[..., 0]).all()
    gamma, _, _, variance = norm.get_weights()
    gain = gamma / np.sqrt(variance + norm.epsilon)
    assert scales == pytest.approx(scale[:, 0] * np.abs(gain), rel=1e-5)


def test_the_file_computes_what_training_simulated(prove, network, photos):
    from workbench.deploy import convert, tflite

    quantized, model = converted(prove, prove.rescaled(network, 1.5), photos)
    scale, _ = tflite.output_quantization(model)
    simulated = convert.keras_logits(quantized, photos)
    for reference in (False, True):
        found = tflite.tflite_logits(model, photos, reference=reference)
        assert np.abs(found - simulated).max() <= 1.5 * scale  # rounding at a tie is one level


def test_gradients_pass_through_the_rounding_unchanged():
    import tensorflow as tf

    from workbench.deploy.depthwise import ChannelQuantizer

    kernel = tf.random.stateless_normal((3, 3, 4, 1), seed=(1, 2))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        total = tf.reduce_sum(ChannelQuantizer()(kernel, True, {}) * 3.0)
    assert (tape.gradient(total, kernel).numpy() == 3.0).all()


def test_a_channel_of_zeros_stays_zero():
    from workbench.deploy.depthwise import ChannelQuantizer

    assert not ChannelQuantizer()(np.zeros((3, 3, 2, 1), np.float32), True, {}).numpy().any()
