"""The pickle machine with nothing behind it.

The standard library's own pure-Python machine reads the opcodes; every global it asks for is a
stub, and what would call, construct or restore something is answered by a stub, too.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, cast

Global = tuple[str, str]
MAX_GLOBALS = 100_000


class Damaged(Exception):
    """The bytes are no pickle that could be followed to its end."""


@dataclass
class Seen:
    """What one or more pickles asked for.

    versions: packages by the version fields of their objects. root: the class of the outermost
    object. features, names: of the first estimator that says so.
    """

    globals: set[Global] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    roots: list[Global] = field(default_factory=list)
    features: int | None = None
    names: tuple[str, ...] | None = None
    persistent: int = 0
    extensions: int = 0


class Stub:
    """Whatever a global, a call or an object would have been."""

    __slots__ = ("arguments", "origin", "state")

    def __init__(self, origin: Global | None, arguments: object = None) -> None:
        self.origin = origin
        self.arguments = arguments
        self.state: Any = None

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...

    def add(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    @property
    def name(self) -> Global:
        return self.origin or ("", "")


Arrays = Callable[[Stub, BinaryIO, Seen], bool]
"""reads what joblib writes between opcodes, if this object announces any"""


class Machine(pickle._Unpickler):
    """Follows one pickle."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: BinaryIO, seen: Seen, arrays: Arrays) -> None:
        super().__init__(stream)
        self._raw = stream
        self._seen = seen
        self._arrays = arrays

    def find_class(self, module: str, name: str) -> Any:
        self._seen.globals.add((str(module), str(name)))
        if len(self._seen.globals) > MAX_GLOBALS:
            raise Damaged("it names too many globals")
        return Stub((str(module), str(name)))

    def persistent_load(self, pid: Any) -> Any:
        self._seen.persistent += 1
        return Stub(None, pid)

    def get_extension(self, code: int) -> None:
        self._seen.extensions += 1
        self._seen.globals.add(("copyreg", f"extension {code}"))
        cast(Any, self).append(Stub(None))


def _call(machine: Any, function: object, arguments: object) -> Stub:
    """What a call would be. Calling what is no global is nothing that models do."""
    if not isinstance(function, Stub):
        raise Damaged(f"it calls {type(function).__name__}")
    return Stub(function.origin, arguments)


def _reduce(machine: Any) -> None:
    arguments = machine.stack.pop()
    machine.stack[-1] = _call(machine, machine.stack[-1], arguments)


def _newobj(machine: Any) -> None:
    arguments = machine.stack.pop()
    kind = machine.stack.pop()
    machine.append(_call(machine, kind, arguments))


def _newobj_ex(machine: Any) -> None:
    machine.stack.pop()
    _newobj(machine)


def _instance(machine: Any) -> None:
    module = machine.readline()[:-1].decode("ascii")
    name = machine.readline()[:-1].decode("ascii")
    arguments = machine.pop_mark()
    machine.append(_call(machine, machine.find_class(module, name), arguments))


def _object(machine: Any) -> None:
    arguments = machine.pop_mark()
    machine.append(_call(machine, arguments.pop(0), arguments))


def _build(machine: Any) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if not isinstance(target, Stub):
        raise Damaged(f"it sets the state of {type(target).__name__}")
    if isinstance(target.state, dict) and isinstance(state, dict):
        state = {**target.state, **state}  # what an earlier one set is still there
    target.state = state
    _note(machine._seen, target, state)
    if machine._arrays(target, machine._raw, machine._seen):
        machine.stack[-1] = Stub(("numpy", "ndarray"))


def _note(seen: Seen, target: Stub, state: object) -> None:
    """Version fields and features of estimators."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
        state = state[0]
    if not isinstance(state, dict):
        return
    said = state.get("_sklearn_version")
    if isinstance(said, str):
        seen.versions.setdefault("scikit-learn", said)
    count = state.get("n_features_in_")
    if isinstance(count, Stub) and isinstance(count.arguments, tuple):  # a NumPy scalar
        raw = count.arguments[-1]
        count = int.from_bytes(raw, "little") if isinstance(raw, bytes) and len(raw) <= 8 else None
    if isinstance(count, int):
        seen.features = count


for _opcode, _answer in (
    (pickle.REDUCE, _reduce),
    (pickle.NEWOBJ, _newobj),
    (pickle.NEWOBJ_EX, _newobj_ex),
    (pickle.INST, _instance),
    (pickle.OBJ, _object),
    (pickle.BUILD, _build),
):
    Machine.dispatch[_opcode[0]] = _answer


def no_arrays(_: Stub, __: BinaryIO, ___: Seen) -> bool:
    """Of pickles that nobody writes between."""
    return False


def follow(
    stream: BinaryIO,
    seen: Seen,
    arrays: Arrays = no_arrays,
) -> None:
    """One pickle from where the stream stands to its end. Raises `Damaged`."""
    machine = Machine(stream, seen, arrays)
    try:
        root = cast(Any, machine).load()
    except Damaged:
        raise
    except (
        pickle.UnpicklingError,
        EOFError,
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
        struct.error,
        UnicodeError,
        io.UnsupportedOperation,
    ) as error:
        raise Damaged(f"{type(error).__name__}: {str(error)[:120]}") from error
    if isinstance(root, Stub) and root.origin is not None:
        seen.roots.append(root.origin)
