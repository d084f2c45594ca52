"""Weight files: they come back as they went out, fit the network, and can do nothing but that."""

import dataclasses
import errno
import http.server
import io
import logging
import pickle
import threading
import zipfile

import h5py
import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench.errors import WeightsError
from workbench.nets import weights as pretrained
from workbench.nets.lite import build_lite
from workbench.nets.teacher import build_student, teacher_structure
from workbench.nets.weights import (
    MAX_BYTES,
    fits_head,
    load_weights_into,
    read_arrays,
    save_weights,
)
from workbench.settings import Settings, TeacherSettings

SIDE = 8


def network(classes=3, filters=4, name="conv", norm=None) -> keras.Model:
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = keras.layers.Conv2D(filters, 3, name=name)(image)
    x = keras.layers.BatchNormalization(name=norm or name + "_bn")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    model = keras.Model(image, keras.layers.Dense(classes, name="logits")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.weights])
    return model


def blank(**kind) -> keras.Model:
    model = network(**kind)
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    return model


def same_weights(one, two) -> bool:
    return all(map(np.array_equal, one.get_weights(), two.get_weights()))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "network.h5"
    save_weights(network(), path)
    return path


def test_saved_weights_come_back_bit_for_bit(saved):
    model = blank()
    load_weights_into(model, saved, backbone_only=False)
    assert same_weights(model, network())


def test_the_same_weights_give_the_same_bytes(saved, tmp_path):
    save_weights(network(), tmp_path / "again.h5")
    assert saved.read_bytes() == (tmp_path / "again.h5").read_bytes()


def test_keras_itself_reads_what_was_saved(saved):
    model = blank()
    model.load_weights(saved)
    assert same_weights(model, network())


@pytest.mark.parametrize("write", ["h5", "weights.h5", "whole model"])
def test_files_that_keras_wrote_are_read(write, tmp_path):
    path = tmp_path / f"keras.{'h5' if write == 'whole model' else write}"
    (network().save if write == "whole model" else network().save_weights)(path)
    model = blank()
    load_weights_into(model, path, backbone_only=False)
    assert same_weights(model, network())


def test_an_npz_of_layer_and_weight_names_is_read(tmp_path):
    path = tmp_path / "network.npz"
    arrays = {weight.name: weight.numpy() for weight in network().weights}
    np.savez_compressed(path, **arrays)
    model = blank()
    load_weights_into(model, path, backbone_only=False)
    assert same_weights(model, network())


def test_a_network_inside_a_network_is_read_by_its_inner_layers(tmp_path):
    inner, image = network(), keras.Input((SIDE, SIDE, 3))
    keras.Model(image, inner(image)).save_weights(tmp_path / "nested.h5")
    model = blank()
    load_weights_into(model, tmp_path / "nested.h5", backbone_only=False)
    assert same_weights(model, inner)


def test_published_files_with_other_layer_names_are_read_in_order(tmp_path):
    network(name="mobl0_conv").save_weights(tmp_path / "old.h5")
    model = blank()
    model.layers[-1].set_weights(network().layers[-1].get_weights())
    load_weights_into(model, tmp_path / "old.h5", backbone_only=True)
    assert same_weights(model, network())


def test_published_files_that_share_some_layer_names_are_read_in_order_too(tmp_path):
    """MobileNetV2's holds Conv1 and bn_Conv1 beside names that Keras gave up later."""
    save_weights(network(norm="bn0"), tmp_path / "old.h5")
    assert {"conv/kernel", "bn0/gamma"} <= read_arrays(tmp_path / "old.h5").keys()
    model = blank()
    load_weights_into(model, tmp_path / "old.h5", backbone_only=False)
    assert same_weights(model, network())


@pytest.mark.parametrize(
    "arch", ["mobilenet_v2", pytest.param("resnet101", marks=pytest.mark.slow)]
)
def test_a_backbone_lists_its_layers_in_the_order_of_the_published_file(arch):
    """Keras wrote those files, and reads them, in the order of its own layers."""
    theirs = {"mobilenet_v2": "MobileNetV2", "resnet101": "ResNet101"}[arch]
    ours = teacher_structure(Settings(teacher=TeacherSettings(arch=arch, input_size=32)), 2).layers[
        :-1
    ]
    original = getattr(keras.applications, theirs)(weights=None, include_top=False)
    assert with_weights(ours) == with_weights(original.layers)


def with_weights(layers) -> list[str]:
    return [layer.name for layer in layers if layer.weights]


def test_the_head_of_other_classes_is_left_alone(saved):
    model = blank(classes=5)
    assert not fits_head(model, saved)
    load_weights_into(model, saved, backbone_only=True)
    np.testing.assert_array_equal(model.layers[-1].kernel, 0)
    np.testing.assert_array_equal(model.layers[1].kernel, network().layers[1].kernel)


def lite_with_hidden(units: int) -> keras.Model:
    return build_lite("lite0", 4, input_size=32, hidden_units=units)


def test_a_head_with_a_hidden_layer_is_kept_whole_or_not_at_all(tmp_path):
    path = tmp_path / "hidden.h5"
    save_weights(lite_with_hidden(1280), path)  # as wide as the features: logits alone would fit
    assert fits_head(lite_with_hidden(1280), path)
    plain = lite_with_hidden(0)
    assert not fits_head(plain, path) and not fits_head(lite_with_hidden(64), path)
    before = plain.layers[-1].get_weights()
    load_weights_into(plain, path, backbone_only=True)
    np.testing.assert_array_equal(plain.layers[-1].get_weights()[0], before[0])
    with pytest.raises(WeightsError, match="another network"):
        load_weights_into(lite_with_hidden(0), path, backbone_only=False)


def test_a_file_with_a_head_of_the_same_classes_is_recognised(saved):
    assert fits_head(blank(), saved)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"filters": 6}, "shape"),
        ({"classes": 5}, "other classes"),
        ({"name": "x", "filters": 6}, "no x/kernel"),
    ],
)
def test_weights_of_another_network_are_refused(saved, kind, message):
    with pytest.raises(WeightsError, match=message):
        load_weights_into(blank(**kind), saved, backbone_only=False)


def test_a_deeper_network_does_not_pass_for_a_shallower_one(tmp_path):
    save_weights(build_lite("lite1", None, input_size=32), tmp_path / "lite1.h5")
    with pytest.raises(WeightsError, match="also holds block2c"):
        load_weights_into(
            build_lite("lite0", None, input_size=32), tmp_path / "lite1.h5", backbone_only=True
        )


@pytest.mark.parametrize("name", ["missing.h5", "missing.npz"])
def test_a_missing_file_is_named_with_the_ways_out(name, tmp_path):
    with pytest.raises(WeightsError, match=f"{name} does not exist.*imagenet or none"):
        read_arrays(tmp_path / name)


@pytest.mark.parametrize("name", ["model.keras", "model.pkl", "saved_model.pb", "model"])
def test_formats_that_can_hold_code_are_refused_unopened(name, tmp_path):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightsError, match="only"):
        read_arrays(tmp_path / name)


@pytest.mark.parametrize("name", ["x.h5", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_a_damaged_file_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_arrays(tmp_path / name)


def test_a_truncated_file_is_named(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 997):
        saved.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"network\.h5"):
            load_weights_into(blank(), saved, backbone_only=False)


def link_elsewhere(file):
    file["layer"] = h5py.ExternalLink("/etc/passwd", "/")


def link_inside(file):
    file["layer"] = h5py.SoftLink("/other")


def numbers_elsewhere(file):
    file.create_dataset("layer/kernel:0", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4,))
    file.create_virtual_dataset("layer/kernel:0", layout)


def text(file):
    file["layer/kernel:0"] = ["import os"]


def huge(file):
    file.create_dataset("layer/kernel:0", (1 << 40,), "f4")


def huge_in_chunks(file):
    dataset = file.create_dataset("layer/kernel:0", (1 << 40,), "f4", chunks=(4,), fillvalue=1)
    dataset[:4] = 1


def compressed(file):
    data = np.zeros(1 << 20, np.float32)
    file.create_dataset("layer/kernel:0", data=data, compression="gzip")


def not_finite(file):
    file["layer/kernel:0"] = np.array([1, np.nan], np.float32)


@pytest.mark.parametrize(
    "content",
    [
        link_elsewhere,
        link_inside,
        numbers_elsewhere,
        virtual,
        text,
        huge,
        huge_in_chunks,
        compressed,
        not_finite,
    ],
)
def test_an_h5_file_that_is_more_than_plain_arrays_is_refused(content, tmp_path):
    path = tmp_path / "evil.h5"
    with h5py.File(path, "w") as file:
        content(file)
    with pytest.raises(WeightsError, match=r"evil\.h5: "):
        read_arrays(path)


def test_groups_that_contain_themselves_are_walked_once(saved):
    with h5py.File(saved, "a") as file:
        file["conv/again"] = file["conv"]
    assert "conv/kernel" in read_arrays(saved)


def test_a_lambda_in_a_saved_model_is_never_run(tmp_path):
    image = keras.Input((SIDE,))
    marker = tmp_path / "ran"
    x = keras.layers.Lambda(lambda z: z, name="trap")(image)
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(x))
    model.save(tmp_path / "trap.h5")
    with h5py.File(tmp_path / "trap.h5", "a") as file:
        config = file.attrs["model_config"]
        assert "Lambda" in config
        file.attrs["model_config"] = config.replace("trap", f"trap {marker}")
    assert set(read_arrays(tmp_path / "trap.h5")) == {"logits/kernel", "logits/bias"}
    assert not marker.exists()


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pickle_in_an_npz_is_never_run(tmp_path):
    np.savez(tmp_path / "evil.npz", kernel=np.array([Trap()], dtype=object))
    with pytest.raises(WeightsError, match="type object"):
        read_arrays(tmp_path / "evil.npz")
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError, match=r"raw\.npz"):
        read_arrays(tmp_path / "raw.npz")


def test_an_npz_that_claims_more_than_it_holds_is_refused_before_memory_is_spent(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("kernel.npy", header.getvalue() + bytes(16))
    with pytest.raises(WeightsError, match="claims shape"):
        read_arrays(tmp_path / "bomb.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.nets.weights.MAX_BYTES", 1000)
    np.savez_compressed(tmp_path / "zeros.npz", kernel=np.zeros(1000, np.float32))
    with pytest.raises(WeightsError, match="at most 1000"):
        read_arrays(tmp_path / "zeros.npz")
    assert MAX_BYTES > 300_000_000  # EfficientNet-B7 fits


def test_normalization_statistics_in_a_file_do_not_replace_those_of_the_architecture(tmp_path):
    def scaled():
        image = keras.Input((SIDE, SIDE, 3))
        x = keras.layers.Normalization()(image)
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        return keras.Model(image, keras.layers.Dense(2, name="logits")(x))

    one, two = scaled(), scaled()  # Keras numbers the second layer normalization_1
    one.layers[1].set_weights([np.ones(3), np.ones(3), np.array(0)])
    save_weights(one, tmp_path / "one.h5")
    load_weights_into(two, tmp_path / "one.h5", backbone_only=False)
    np.testing.assert_array_equal(two.layers[1].mean.numpy().ravel(), 0)
    np.testing.assert_array_equal(two.layers[-1].kernel, one.layers[-1].kernel)


# the download


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published file on a server that is a folder."""
    import hashlib

    content = b"weights" * 1000
    (tmp_path / "lite.h5").write_bytes(content)
    file = pretrained.Published((tmp_path / "lite.h5").as_uri(), hashlib.md5(content).hexdigest())
    monkeypatch.setitem(pretrained.PUBLISHED, "efficientnet_lite0", file)
    return file


def fetch(folder):
    return pretrained.imagenet_weights("efficientnet_lite0", "student.weights", folder)


def test_imagenet_weights_are_fetched_once(published, tmp_path):
    path = fetch(tmp_path / "cache")
    assert path.read_bytes() == (tmp_path / "lite.h5").read_bytes()
    (tmp_path / "lite.h5").unlink()
    assert fetch(tmp_path / "cache") == path


def test_a_damaged_file_in_the_cache_is_fetched_again(published, tmp_path, caplog):
    path = fetch(tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1])
    assert fetch(tmp_path / "cache").read_bytes() == (tmp_path / "lite.h5").read_bytes()
    assert "fetched again" in caplog.text


def test_a_download_that_is_not_what_was_published_is_refused(published, tmp_path):
    (tmp_path / "lite.h5").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="MD5"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def breaking_server(published, monkeypatch):
    """A server that promises a whole file and hangs up halfway."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = b"weights" * 1000
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

        def log_message(self, *_args): ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/lite.h5"
        file = dataclasses.replace(published, url=url)
        monkeypatch.setitem(pretrained.PUBLISHED, "efficientnet_lite0", file)
        yield
        server.shutdown()


def test_a_download_that_breaks_off_leaves_nothing_behind(breaking_server, tmp_path):
    with pytest.raises(WeightsError, match=r"lite\.h5"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_says_how_far_it_has_come(breaking_server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pretrained, "CHUNK_BYTES", 700)
    with caplog.at_level("INFO"), pytest.raises(WeightsError):
        fetch(tmp_path / "cache")
    assert [record.getMessage() for record in caplog.records] == ["lite.h5: 0 of 0 MB"] * 5


def test_the_hashes_of_keras_are_those_that_keras_checks():
    from tf_keras.src.applications import efficientnet, resnet

    for number in range(8):
        md5 = pretrained.PUBLISHED[f"efficientnet_b{number}"].md5
        assert md5 == efficientnet.WEIGHTS_HASHES[f"b{number}"][1]
    for arch in ("resnet101", "resnet152"):
        assert pretrained.PUBLISHED[arch].md5 == resnet.WEIGHTS_HASHES[arch][1]


def test_without_a_network_the_message_names_both_ways_out(published, tmp_path):
    (tmp_path / "lite.h5").unlink()
    with pytest.raises(WeightsError, match=r"student\.weights: none.*student\.weights: PATH"):
        fetch(tmp_path / "cache")


def test_a_full_disk_is_not_taken_for_a_missing_network(published, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_every_architecture_has_a_published_file_with_a_hash_or_a_size():
    from workbench.settings import TEACHER_SIZES

    assert pretrained.PUBLISHED.keys() == TEACHER_SIZES.keys()
    assert all(file.md5 or file.bytes for file in pretrained.PUBLISHED.values())


@pytest.mark.parametrize(
    ("before", "kept", "why"),
    [
        ("ant\nbee\ncat\n", True, "head kept: the same classes in labels.txt"),
        ("ant\nbee\nfox\n", False, "new head: labels.txt beside it names other classes"),
        (None, True, "head kept: as many classes, and no labels.txt beside it"),
    ],
)
def test_a_head_is_kept_for_the_same_classes_and_the_reason_is_said(
    tmp_path, caplog, monkeypatch, before, kept, why
):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    student = {"variant": "lite0", "input_size": 32, "weights": "none"}
    old = build_student(Settings.model_validate({"seed": 7, "student": student}), 3)
    save_weights(old, tmp_path / "old.h5")
    if before:
        (tmp_path / "labels.txt").write_text(before)
    settings = Settings.model_validate({"student": student | {"weights": str(tmp_path / "old.h5")}})
    new = build_student(settings, ("ant", "bee", "cat"))
    kernels = [(one.layers[-1].get_weights()[0], one.get_layer("stem_conv").get_weights()[0])
               for one in (old, new)]  # fmt: skip
    head, backbone = (np.array_equal(*pair) for pair in zip(*kernels, strict=True))
    assert (head, backbone) == (kept, True)
    assert why in caplog.text
