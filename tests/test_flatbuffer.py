"""What goes out: folded thresholds, activations, labels and metadata inside the file."""

import json
import zipfile

import flatbuffers
import numpy as np
import pytest
from flatbuffers.table import Table

from tests.deploy_doubles import INTEGERS, LABELS, colour_file, photos, recommendation
from workbench.deploy import flatbuffer, tflite
from workbench.errors import StepError
from workbench.settings import Settings

METADATA = {"name": "stand-in", "description": "ünïcode", "version": "1", "licence": "MIT"}


def raw_of(model: bytes, count: int = 60) -> np.ndarray:
    return tflite.run_tflite(model, photos(count, seed=4)).astype(int)


def test_folded_thresholds_fire_at_zero_where_the_tuned_ones_fired():
    before = raw_of(colour_file())
    for integers in (INTEGERS, (-90, 100, 3), (-127, 127, -4)):
        after = raw_of(flatbuffer.with_folded_thresholds(colour_file(), np.array(integers)))
        assert ((before >= integers) == (after >= 0)).all(), integers


def test_folding_moves_scores_by_whole_levels():
    before, integers = raw_of(colour_file()), np.array([-20, 0, 30])
    after = raw_of(flatbuffer.with_folded_thresholds(colour_file(), integers))
    assert (after == np.clip(before - integers, -128, 127)).all()


def test_always_and_never_stay_always_and_never():
    after = raw_of(flatbuffer.with_folded_thresholds(colour_file(), np.array([-128, 128, 0])))
    assert (after[:, 0] >= 0).all() and (after[:, 1] < 0).all()


def test_a_file_whose_last_layer_is_no_dense_one_cannot_fold():
    with pytest.raises(StepError, match="fold into a fully connected last layer"):
        flatbuffer.with_folded_thresholds(
            flatbuffer.with_activation(colour_file(), "sigmoid"), np.zeros(3)
        )


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_an_activation_inside_gives_probabilities_to_half_a_level(activation):
    logits = tflite.logits_of(raw_of(colour_file()), 0.05, -4).astype(float)
    model = flatbuffer.with_activation(colour_file(), activation)
    found = tflite.logits_of(raw_of(model), *tflite.output_quantization(model))
    powers = np.exp(logits)
    exact = powers / (1 + powers) if activation == "sigmoid" else powers / powers.sum(1)[:, None]
    assert np.abs(found - np.clip(exact, 0, 255 / 256)).max() <= 0.51 / 256


def test_integer_ports_keep_what_a_float_file_computes():
    tree = flatbuffer.parse(colour_file())
    graph, code, kinds = tree.subgraphs[0], flatbuffer.Operator, flatbuffer.TensorType
    source = flatbuffer.add_tensor(graph, "float_in", kinds.FLOAT32, graph.tensors[0].shape)
    target = flatbuffer.add_tensor(
        graph, "float_out", kinds.FLOAT32, graph.tensors[graph.outputs[0]].shape
    )
    graph.operators[0].inputs = [source]
    graph.operators.append(
        flatbuffer.make_operator(tree, code.DEQUANTIZE, graph.outputs[0], target)
    )
    flatbuffer.replace_port(tree, "inputs", source)
    flatbuffer.replace_port(tree, "outputs", target)
    model = flatbuffer.with_integer_ports(flatbuffer.pack(tree), "uint8", (-6.2, 6.55))
    assert (raw_of(model) == raw_of(colour_file())).all()


def shipped(settings=None, thresholds=None) -> bytes:
    return flatbuffer.export_model(
        colour_file(), LABELS, METADATA, settings or Settings(), thresholds
    )


def test_the_runtime_computes_the_same_with_labels_inside():
    assert (raw_of(shipped()) == raw_of(colour_file())).all()


def test_unzip_finds_the_labels_and_the_metadata(tmp_path):
    (tmp_path / "model.tflite").write_bytes(shipped())
    with zipfile.ZipFile(tmp_path / "model.tflite") as inside:
        assert inside.read("labels.txt").decode() == "".join(f"{label}\n" for label in LABELS)
        assert json.loads(inside.read("metadata.json")) == METADATA


def test_two_exports_are_the_same_bytes():
    assert shipped() == shipped()


def test_thresholds_change_the_file_only_when_they_are_folded():
    other = recommendation(integers=(1, 2, 3))
    folding = Settings(tflite_export={"fold_thresholds": True})
    assert shipped(thresholds=recommendation()) == shipped(thresholds=other)
    assert shipped(folding, recommendation()) != shipped(folding, other)


def test_folding_without_thresholds_names_the_step_that_makes_them():
    with pytest.raises(StepError, match="needs the thresholds of 06_tune_thresholds"):
        shipped(Settings(tflite_export={"fold_thresholds": True}))


def test_a_single_label_cannot_fold():
    settings = Settings(task="single_label", tflite_export={"fold_thresholds": True})
    with pytest.raises(StepError, match="one confidence threshold, which no bias can hold"):
        shipped(settings, recommendation())


@pytest.mark.parametrize("label", ["", "two\nlines", "a\u2028b"])
def test_a_label_that_is_not_one_line_is_refused(label):
    with pytest.raises(StepError, match="a label is one line of text"):
        flatbuffer.with_metadata(colour_file(), [label], METADATA)


def test_a_folded_file_of_probabilities_decides_as_the_tuned_thresholds():
    settings = Settings(tflite_export={"fold_thresholds": True, "sigmoid_in_model": True})
    after = raw_of(shipped(settings, recommendation()))
    assert ((after >= 0) == (raw_of(colour_file()) >= INTEGERS)).all()


def table_at(data: bytes, position: int) -> Table:
    return Table(bytearray(data), position)


def child(table: Table, slot: int, index: int = 0) -> Table:
    """Follow slot `slot` of a flatbuffers table, into a vector of tables when there is one."""
    offset = table.Offset(4 + 2 * slot)
    start = table.Vector(offset) + 4 * index
    return table_at(table.Bytes, table.Indirect(start))


def text(table: Table, slot: int) -> str:
    return table.String(table.Offset(4 + 2 * slot) + table.Pos).decode()


def test_the_metadata_block_says_what_tflite_tools_read():
    block = flatbuffer.metadata_block(METADATA, size=(240, 200))
    assert block[4:8] == b"M001"
    root = table_at(block, flatbuffers.encode.Get(flatbuffers.packer.uoffset, block, 0))
    graph = child(root, 3)
    scores = child(graph, 3)
    file = child(scores, 6)
    assert (text(root, 0), text(root, 1), text(file, 0)) == ("stand-in", "ünïcode", "labels.txt")


def test_the_metadata_block_lies_in_the_file_under_the_name_that_tools_look_for():
    tree = flatbuffer.parse(shipped())
    entry = next(one for one in tree.metadata if one.name.decode() == flatbuffer.METADATA_NAME)
    assert bytes(tree.buffers[entry.buffer].data)[4:8] == b"M001"


def test_packing_a_parsed_file_changes_nothing_it_computes():
    again = flatbuffer.pack(flatbuffer.parse(colour_file()))
    assert (
        tflite.run_tflite(again, photos(4)) == tflite.run_tflite(colour_file(), photos(4))
    ).all()


def test_packing_twice_gives_the_same_bytes():
    once = flatbuffer.pack(flatbuffer.parse(colour_file()))
    assert flatbuffer.pack(flatbuffer.parse(once)) == once


def test_data_of_every_buffer_starts_where_kernels_may_load_whole_vectors():
    file = flatbuffer.schema.Model.GetRootAs(
        flatbuffer.with_activation(colour_file(), "sigmoid"), 0
    )
    buffers = [file.Buffers(index) for index in range(file.BuffersLength())]
    starts = [b._tab.Vector(b._tab.Offset(4)) for b in buffers if b.DataLength()]
    assert starts and not any(start % flatbuffer.BUFFER_ALIGNMENT for start in starts)
