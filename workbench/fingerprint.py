"""Fingerprints of code and of values: what decides whether a result still stands.

Comments, docstrings, layout and addresses in memory never count. Loads no TensorFlow.
"""

from __future__ import annotations

import ast
import copyreg
import dis
import functools
import hashlib
import inspect
import logging
import sys
import sysconfig
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

PACKAGE = Path(__file__).parent
COMPILED = {".so", ".pyc", ".pyd"}
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def code_digest(*names: str) -> str:
    """Hash modules and packages under workbench/, such as "train" or "data.letterbox".

    A module takes the files of its name along (letterbox.c), a package everything in it.
    """
    parts = [name.removeprefix("workbench.").replace(".", "/") for name in names]
    found = sorted({path for part in parts for path in _files(part)})
    return _hash("code", *(f"{path}: {_file_digest(PACKAGE / path)}" for path in found))


def value_digest(value: Any) -> str:
    """Hash a value that a person hands in: what it computes with, not where it lies in memory.

    Functions count by code, constants, closures and the globals they use; what a library brings by
    name. A Keras network counts by structure, inside another value (a teacher) with its weights.
    """
    walk = _Walk()
    return walk.network(value) if _is_network(value) else walk.digest(value)


def weights_digest(network: Any) -> str:
    """Hash the weights of a Keras network, in order."""
    return _hash("weights", *map(_array_digest, network.get_weights()))


def _files(name: str) -> list[str]:
    base = PACKAGE / name
    files = base.rglob("*") if base.is_dir() else base.parent.glob(base.name + ".*")
    kept = [str(path.relative_to(PACKAGE)) for path in files if _is_source(path)]
    if not kept:
        raise ValueError(f"workbench has no module or package {name!r}")
    return kept


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith((".", "__pycache__")) for part in path.parts[-2:])
    return path.is_file() and path.suffix not in COMPILED and not hidden


@functools.cache
def _parsed(path: Path, _state: tuple[int, int]) -> str:
    content = path.read_bytes()
    if path.suffix != ".py":
        return hashlib.sha256(content).hexdigest()
    return _hash("syntax", syntax(content))


def syntax(source: str | bytes) -> str:
    """Write the syntax tree of a program: comments, docstrings and layout leave no trace."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body.pop(0)
    return ast.dump(tree)


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _parsed(path, (status.st_mtime_ns, status.st_size))


def _is_docstring(node: ast.AST) -> bool:
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text and isinstance(node.value.value, str)


def _hash(kind: str, *parts: str) -> str:
    digest = hashlib.sha256(kind.encode())
    for part in parts:
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()


def _array_digest(array: np.ndarray) -> str:
    array = np.asarray(array)
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return _hash("array", str(array.dtype), str(array.shape), content)


def _is_network(value: Any) -> bool:
    keras = sys.modules.get("tf_keras")
    return keras is not None and isinstance(value, keras.Model)


def _is_library(module: str | None) -> bool:
    """Tell code that counts by name from a person's own; `code_digest` looks after this package."""
    if module == "__main__":
        return False
    if (module or "").split(".")[0] == "workbench":
        return True
    path = getattr(sys.modules.get(module or ""), "__file__", None)
    return path is None or path.startswith(LIBRARIES)


class _Walk:
    """One walk through a value; what it is inside of is remembered, since values hold cycles."""

    def __init__(self) -> None:
        self._inside: list[Any] = []
        self._known: dict[int, tuple[Any, str]] = {}  # by id; the value is kept alive with it

    def digest(self, value: Any) -> str:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return _hash(type(value).__name__, repr(value))
        if any(value is outer for outer in self._inside):
            return _hash("cycle", type(value).__name__)
        if id(value) in self._known:
            return self._known[id(value)][1]
        self._inside.append(value)
        try:
            digest = self._composite(value)
        finally:
            self._inside.pop()
        self._known[id(value)] = (value, digest)
        return digest

    def _composite(self, value: Any) -> str:
        kind = type(value).__name__
        if type(value) in (list, tuple):
            return _hash(kind, *map(self.digest, value))
        if isinstance(value, (set, frozenset)):
            return _hash(kind, *sorted(map(self.digest, value)))
        if type(value) is dict:
            items = (f"{self.digest(key)} {self.digest(item)}" for key, item in value.items())
            return _hash(kind, *sorted(items))
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
            return _array_digest(value)
        known = {types.CodeType: self._code, types.FunctionType: self._function,
                 type: self._class, types.ModuleType: self._module}  # fmt: skip
        found = (digest for of, digest in known.items() if isinstance(value, of))
        return next(found, self._object)(value)

    def _object(self, value: Any) -> str:
        for inner in ("python_function", "__wrapped__"):  # of tf.function, of functools.cache
            if hasattr(value, inner):
                return self.digest(getattr(value, inner))
        kind = self.digest(type(value))
        if _is_network(value):
            return _hash("network", self.network(value), weights_digest(value))
        if isinstance(value, BaseModel):
            return _hash("model", kind, self.digest(value.model_dump()))
        if isinstance(value, logging.Logger):
            return _hash("logger", value.name)
        if hasattr(value, "numpy") and hasattr(value, "dtype"):  # a tensor or a variable
            return _array_digest(value.numpy())
        if "tf_keras" in sys.modules and hasattr(value, "get_config"):
            return _hash("keras", kind, self.digest(value.get_config()))
        return self._taken_apart(value, kind)

    def _taken_apart(self, value: Any, kind: str) -> str:
        """Hash what pickle would write down of an object."""
        registered = copyreg.dispatch_table.get(type(value))
        try:
            reduced = registered(value) if registered else value.__reduce_ex__(2)
        except (TypeError, AttributeError, NotImplementedError):  # locks, streams, iterators
            return _hash("object", kind)
        if isinstance(reduced, str):  # found by its name, as NumPy's functions are
            return _hash("name", kind, reduced)
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = [made, arguments, state, list(items or ()), list(pairs or ())]
        return _hash("object", kind, *map(self.digest, parts))

    def _function(self, function: types.FunctionType) -> str:
        cells = [cell for cell in function.__closure__ or () if not _is_empty(cell)]
        closure = self.digest([cell.cell_contents for cell in cells])
        if _is_library(function.__module__):
            return _hash("library", f"{function.__module__}.{function.__qualname__}", closure)
        known, names = function.__globals__, _globals_of(function.__code__)
        used = {name: known[name] for name in names if name in known}
        defaults = [function.__defaults__, function.__kwdefaults__]
        parts = map(self.digest, (function.__code__, used, defaults))
        return _hash("function", closure, *parts)

    def _code(self, code: types.CodeType) -> str:
        """Hash the instructions; a docstring is a constant that none of them loads."""
        steps = (f"{step.opname} {self.digest(step.argval)}" for step in dis.get_instructions(code))
        return _hash("code", *steps, code.co_exceptiontable.hex())

    def _class(self, value: type) -> str:
        name = f"{value.__module__}.{value.__qualname__}"
        if _is_library(value.__module__):
            return _hash("class", name)
        own = {key: _bare(item) for key, item in vars(value).items() if _is_written(key, item)}
        parts = map(self.digest, (own, *value.__bases__))
        return _hash("class", value.__qualname__, *parts)

    def _module(self, value: types.ModuleType) -> str:
        if _is_library(value.__name__) or not value.__file__.endswith(".py"):
            return _hash("module", value.__name__)
        return _hash("module", _file_digest(Path(value.__file__)))

    def network(self, network: Any) -> str:
        """Hash layers and how they are joined; Keras numbers unnamed layers by history."""
        layers = list(_layers(network))
        names = {layer.name: f"#{index}" for index, layer in reversed(list(enumerate(layers)))}
        shapes = [list(weight.shape) for weight in network.weights]
        # Lambda keeps its function here; what its config says of it changes with the line number.
        kinds = [[type(layer), getattr(layer, "function", None)] for layer in layers]
        try:
            config = _canonical(network.get_config(), names)
        except NotImplementedError:  # a subclass of Model: its code says how layers are joined
            config = self.digest(type(network))
        return _hash("network", *map(self.digest, (kinds, shapes, config)))


def _globals_of(code: types.CodeType) -> set[str]:
    steps, loads = dis.get_instructions(code), ("LOAD_GLOBAL", "LOAD_NAME")
    names = {step.argval for step in steps if step.opname in loads}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return names.union(*map(_globals_of, inner))


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _bare(item: Any) -> Any:
    """Take the function out of what a class wraps it in."""
    if isinstance(item, property):
        return [item.fget, item.fset]
    if isinstance(item, functools.cached_property):
        return item.func
    return getattr(item, "__func__", item)


def _is_written(name: str, item: Any) -> bool:
    """Tell what a person wrote in a class from what Python, dataclass or pydantic added."""
    if callable(item):
        code = getattr(inspect.unwrap(item), "__code__", None)
        return getattr(code, "co_filename", "") != "<string>"
    slot = isinstance(item, (types.MemberDescriptorType, types.GetSetDescriptorType))
    return not slot and not name.startswith("__") and name != "_abc_impl"


def _layers(network: Any) -> Iterable[Any]:
    for layer in network.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


NAMING = {"name", "inbound_nodes", "input_layers", "output_layers"}


def _canonical(config: Any, names: dict[str, str], naming: bool = False) -> Any:
    """Number the layers; leave out what a phase sets itself, and code, which is hashed apart."""
    if isinstance(config, dict):
        config = {key: value for key, value in config.items() if key != "trainable"}
        if config.get("class_name") == "Lambda":
            config["config"] = {**config["config"], "function": None}
        if "layers" in config:
            config["name"] = ""  # of a network
        return {k: _canonical(v, names, naming or k in NAMING) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [_canonical(item, names, naming) for item in config]
    return names.get(config, config) if naming and isinstance(config, str) else config
