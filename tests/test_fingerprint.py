"""Fingerprints change with what a thing computes, and with nothing else."""

import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import workbench.fingerprint as fingerprint
from workbench.fingerprint import code_digest, value_digest


def in_a_notebook(text: str, **names):
    """Run a cell as a notebook does, in `__main__`; return the value of its last name."""
    scope = {"__name__": "__main__", "np": np, **names}
    exec(compile(text, "/tmp/ipykernel_1/cell.py", "exec"), scope)  # noqa: S102
    return scope["it"]


def digest_of(text: str, **names) -> str:
    return value_digest(in_a_notebook(text, **names))


def clean_process(text: str, **environment) -> str:
    """Run Python in a process of its own; return what it prints."""
    command = [sys.executable, "-c", text]
    result = subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path)
    (tmp_path / "nets").mkdir()
    return tmp_path / "nets"


def code(package, text: str) -> str:
    (package / "loss.py").write_text(text)
    return code_digest("nets")


def test_comments_docstrings_and_layout_leave_code_the_same(package):
    bare = code(package, "def f(x):\n    return x + 1\n")
    dressed = '"""A module."""\n\n\ndef f( x ):  # says\n    """Says."""\n    return (x + 1)\n'
    assert code(package, dressed) == bare


@pytest.mark.parametrize("change", ["return x + 2", "return x - 1", "return y + 1"])
def test_a_constant_operator_or_name_makes_other_code(package, change):
    assert code(package, f"def f(x):\n    {change}\n") != code(
        package, "def f(x):\n    return x + 1\n"
    )


def test_c_files_count_by_their_bytes_and_compiled_ones_not_at_all(package):
    before = code(package, "x = 1\n")
    (package / "loss.so").write_bytes(b"machine")
    assert code_digest("nets") == before
    (package / "loss.c").write_text("int x;")
    assert code_digest("nets.loss") != before != code_digest("nets")


def test_a_renamed_module_makes_other_code(package):
    before = code(package, "x = 1\n")
    (package / "loss.py").rename(package / "cost.py")
    assert code_digest("nets") != before


def test_a_name_without_a_module_is_refused(package):
    with pytest.raises(ValueError, match="no module or package 'trian'"):
        code_digest("trian")


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, {"a": 1}, np.ones(1)]
)
def test_values_of_different_types_differ(value):
    others = [None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, {"a": 1}, np.ones(1)]
    assert sum(value_digest(value) == value_digest(other) for other in others) == 1


def test_a_lambda_counts_by_what_it_computes():
    assert digest_of("it = lambda x: x * 2") == digest_of("\n\nit = lambda x: x * 2  # twice")
    assert digest_of("it = lambda x: x * 2") != digest_of("it = lambda x: x * 3")
    assert digest_of("it = lambda x: x * 2") != digest_of("it = lambda x: x + 2")


def test_a_docstring_leaves_a_function_the_same():
    bare = digest_of("def it(x):\n    return 'a'")
    assert digest_of("def it(x):\n    'Say a.'\n    return 'a'") == bare


def test_closures_defaults_and_globals_of_a_function_count():
    closure = "def outer(k):\n    return lambda x: x * k\nit = outer({})"
    assert digest_of(closure.format(2)) != digest_of(closure.format(3))
    assert digest_of("it = lambda x, k=1: x") != digest_of("it = lambda x, k=2: x")
    assert digest_of("k = 1\nit = lambda x: x * k") != digest_of("k = 2\nit = lambda x: x * k")
    inner = "def g(x):\n    return x * {}\ndef it(x):\n    return g(x)"
    assert digest_of(inner.format(2)) != digest_of(inner.format(3))


def test_a_scratch_variable_that_a_function_does_not_use_never_counts():
    assert digest_of("x = 5\nit = lambda y: y") == digest_of("it = lambda y: y")


def test_functions_that_call_each_other_have_a_digest():
    text = "def a(x):\n    return b(x)\ndef b(x):\n    return a(x)\nit = a"
    assert digest_of(text) == digest_of(text)


def test_numpy_functions_are_told_apart():
    assert value_digest(np.exp) != value_digest(np.log)
    assert digest_of("it = lambda x: np.exp(x)") != digest_of("it = lambda x: np.log(x)")


def test_a_partial_counts_by_function_and_arguments():
    def scale(x, k):
        return x * k

    assert value_digest(functools.partial(scale, k=2)) == value_digest(
        functools.partial(scale, k=2)
    )
    assert value_digest(functools.partial(scale, k=2)) != value_digest(
        functools.partial(scale, k=3)
    )


@dataclass(frozen=True)
class Weighed:
    weights: np.ndarray

    def __call__(self, x):
        return x * self.weights


def test_a_dataclass_counts_by_the_arrays_it_holds():
    assert value_digest(Weighed(np.ones(3))) == value_digest(Weighed(np.ones(3)))
    assert value_digest(Weighed(np.ones(3))) != value_digest(Weighed(np.zeros(3)))


def test_a_method_counts_by_its_code():
    text = "class A:\n    def __call__(self, x):\n        return x * {}\nit = A()"
    assert digest_of(text.format(2)) != digest_of(text.format(3))
    assert digest_of(text.format(2)) == digest_of("\n# again\n" + text.format(2))


def test_an_address_never_counts():
    class Plain:
        pass

    one, other = Plain(), Plain()
    assert repr(one) != repr(other)
    assert value_digest([one]) == value_digest([other])


def test_sets_do_not_depend_on_the_seed_of_hashes():
    text = (
        "from workbench.fingerprint import value_digest\n"
        "print(value_digest(lambda x: x in {'a', 'b', 'c', 'd'}))"
    )
    assert len({clean_process(text, PYTHONHASHSEED=seed) for seed in ("1", "2", "3")}) == 1


def test_fingerprints_load_no_tensorflow():
    text = "import sys, workbench.fingerprint\nprint('tensorflow' in sys.modules)"
    assert clean_process(text) == "False"


def small_network(keras, units=4, **names):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(units, 3, **names)(image)
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_a_network_built_twice_in_one_kernel_is_the_same():
    import tf_keras as keras

    one, other = small_network(keras), small_network(keras)
    assert one.layers[1].name != other.layers[1].name
    assert value_digest(one) == value_digest(other)
    other.layers[1].trainable = False  # a phase decides that
    assert value_digest(one) == value_digest(other)


def test_another_layer_or_activation_makes_another_network():
    import tf_keras as keras

    one = value_digest(small_network(keras))
    assert value_digest(small_network(keras, units=5)) != one
    assert value_digest(small_network(keras, activation="relu")) != one


def test_the_function_of_a_lambda_layer_counts():
    import tf_keras as keras

    def network(factor):
        image = keras.Input((4,))
        return keras.Model(image, keras.layers.Lambda(lambda x: x * factor)(image))

    assert value_digest(network(2)) == value_digest(network(2)) != value_digest(network(3))


def test_a_network_inside_a_value_counts_with_its_weights():
    import tf_keras as keras

    teacher = small_network(keras)
    before = value_digest([teacher])
    teacher.layers[1].set_weights([w + 1 for w in teacher.layers[1].get_weights()])
    assert value_digest([teacher]) != before


def test_a_keras_loss_and_a_tensorflow_function_count_by_what_they_compute():
    import tensorflow as tf
    import tf_keras as keras

    def smoothed(value):
        return value_digest(keras.losses.BinaryCrossentropy(label_smoothing=value))

    assert smoothed(0.1) == smoothed(0.1) != smoothed(0.2)
    assert value_digest(tf.function(lambda x: x)) == value_digest(tf.function(lambda x: x))
    assert value_digest(tf.function(lambda x: x)) != value_digest(tf.function(lambda x: -x))
    assert re.fullmatch("[0-9a-f]{64}", value_digest(tf.constant([1.0])))
