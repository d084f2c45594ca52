"""Opening, running and scanning a phone file, with LiteRT and NumPy alone."""

import subprocess
import sys

import numpy as np
import pytest

from tests.deploy_doubles import OUTPUT, SIZE, colour_file, photos
from workbench.deploy import flatbuffer, tflite
from workbench.deploy.tflite import percentiles, time_calls, time_file
from workbench.errors import StepError
from workbench.files import write_bytes


def float_file() -> bytes:
    """The stand-in with a float32 output behind a DEQUANTIZE."""
    tree = flatbuffer.parse(colour_file())
    graph = tree.subgraphs[0]
    shape = graph.tensors[graph.outputs[0]].shape
    kind = flatbuffer.TensorType.FLOAT32
    logits = flatbuffer.add_tensor(graph, "dequantised", kind, shape)
    code = flatbuffer.Operator.DEQUANTIZE
    graph.operators.append(flatbuffer.make_operator(tree, code, graph.outputs[0], logits))
    flatbuffer.replace_port(tree, "outputs", logits)
    return flatbuffer.pack(tree)


def test_image_bytes_are_the_input_as_they_are():
    port = tflite.input_port(colour_file())
    assert tflite.input_table(port).tolist() == list(range(256))


def test_a_signed_input_takes_the_bytes_shifted_by_128():
    port = tflite.Port((1, SIZE, SIZE, 3), "int8", 1 / 128, -1)
    assert tflite.input_table(port).tolist() == list(range(-128, 128))


def test_a_float_input_takes_normalised_numbers():
    port = tflite.Port((1, SIZE, SIZE, 3), "float32", 0.0, 0)
    assert tflite.input_table(port)[[0, 127, 255]].tolist() == [-127 / 128, 0, 1]


def test_ports_tell_shape_type_and_levels():
    port = tflite.output_port(colour_file())
    assert (port.shape, port.dtype, port.zero_point) == ((1, 3), "int8", OUTPUT["zero_point"])


def test_raw_output_is_one_row_an_image():
    raw = tflite.run_tflite(colour_file(), photos(5))
    assert (raw.shape, raw.dtype) == ((5, 3), np.int8)


def test_no_images_give_no_rows():
    assert tflite.run_tflite(colour_file(), []).shape == (0, 3)


def test_reference_kernels_compute_the_same_integers():
    fast, plain = (tflite.run_tflite(colour_file(), photos(9), reference=r) for r in (False, True))
    assert (fast == plain).all()


def test_logits_are_levels_from_the_zero_point():
    raw = np.array([[-4, -3, 6]], np.int8)
    assert np.allclose(tflite.logits_of(raw, 0.05, -4), [[0, 0.05, 0.5]])


def test_a_float_output_is_a_logit_already():
    raw = np.array([[1.5]], np.float32)
    assert tflite.logits_of(raw, 0.0, 0) is not None and tflite.logits_of(raw, 0.0, 0)[0, 0] == 1.5


def test_a_full_integer_file_has_no_float_tensor():
    scan = tflite.require_full_integer(colour_file())
    assert scan.full_integer and scan.operators["FULLY_CONNECTED"] == 1


def test_a_float_tensor_left_in_the_file_is_named():
    with pytest.raises(StepError, match=r"1 float tensors.*dequantised \(float32\)"):
        tflite.require_full_integer(float_file())


def test_a_truncated_file_is_refused_in_words():
    with pytest.raises(StepError, match="LiteRT cannot open the file"):
        tflite.run_tflite(colour_file()[:200], photos(1))


def test_everything_but_training_and_conversion_needs_no_tensorflow():
    modules = (
        "tflite",
        "flatbuffer",
        "coverage",
        "parity",
        "config",
        "sources",
        "bundle",
        "verify",
    )
    imports = "; ".join(f"import workbench.deploy.{name}" for name in modules)
    code = (
        f"import workbench.artifacts; {imports}; import sys; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_opening_a_file_says_nothing(capfd):
    tflite.run_tflite(colour_file(), photos(1))
    assert capfd.readouterr() == ("", "")


def test_a_file_is_timed_on_this_machine(tmp_path):
    write_bytes(tmp_path / "model.tflite", colour_file())
    found = time_file(tmp_path / "model.tflite", 20)
    assert 0 < found["p50_ms"] <= found["p95_ms"]


def test_percentiles_are_in_milliseconds():
    assert percentiles(np.array([0.001, 0.002, 0.003]))["p50_ms"] == pytest.approx(2)


def test_the_first_calls_are_not_counted():
    calls = []
    seconds = time_calls(lambda: calls.append(1), 3)
    assert len(seconds) == 3 and len(calls) > 3
