"""Objects of one dataclass, held in columns: millions of objects take several times the memory.

Fields are text, whole numbers, floats, truth values or None. Text comes back as it was, also what
UTF-8 lacks: bytes in names of files, halves of characters in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, Self, TypeVar, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Record = TypeVar("Record")

CHUNK = 1 << 14
"""Objects that exist at a time."""
TEXT = pa.large_binary()
TYPES = {bool: pa.bool_(), str: TEXT, int: pa.int64(), float: pa.float64()}


class Records(Generic[Record]):
    """Objects of a dataclass; each becomes an object again when it is read.

    Fields of few values, named by `repeated`, hold each of them once.
    """

    def __init__(
        self, kind: type[Record], records: Iterable[Record] = (), repeated: Iterable[str] = ()
    ) -> None:
        self.kind = kind
        self._schema = schema_of(kind, frozenset(repeated))
        fields_of = attrgetter(*self._schema.names)
        chunks: list[list[pa.Array]] = [[] for _ in self._schema]
        waiting = iter(records)
        while chunk := list(map(fields_of, islice(waiting, CHUNK))):
            columns = zip(*chunk, strict=True)
            for arrays, column, field in zip(chunks, columns, self._schema, strict=True):
                arrays.append(_array(column, field.type))
        self._columns: list[pa.Array] = []
        for arrays, field in zip(chunks, self._schema, strict=True):
            # One column after the other: each takes twice its memory while its chunks are joined.
            self._columns.append(_joined(arrays, field.type))
            arrays.clear()
            _release()

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), CHUNK):
            yield from self._objects([column.slice(start, CHUNK) for column in self._columns])

    def take(self, rows: NDArray[np.int64]) -> list[Record]:
        """The objects of these rows, in the order asked for."""
        return self._objects([column.take(pa.array(rows)) for column in self._columns])

    def subset(self, rows: NDArray[np.int64]) -> Self:
        """These rows, in the order asked for, in columns."""
        found = self._copy()
        found._reorder(pa.array(rows))
        return found

    def column(self, name: str) -> pa.Array:
        """A field of all objects: text as bytes of UTF-8, without any value an array of nulls."""
        return self._columns[self._schema.get_field_index(name)]

    def texts(self, name: str) -> Iterator[Any]:
        """A field of all objects, one after the other."""
        column = self.column(name)
        for start in range(0, len(self), CHUNK):
            yield from values_of(column.slice(start, CHUNK))

    def codes(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """A field of few values: all of them, and the place of each object's; -1 for None."""
        column = self.column(name)
        if not pa.types.is_dictionary(column.type):  # All are None.
            return np.full(len(self), -1, np.int32), []
        return pc.fill_null(column.indices, -1).to_numpy(), values_of(column.dictionary)

    def has(self, name: str) -> NDArray[np.bool_]:
        """Whether a field is not None."""
        return self.column(name).is_valid().to_numpy(zero_copy_only=False)

    def with_column(self, name: str, column: pa.Array) -> Self:
        """The same with another array for a field."""
        found = self._copy()
        found._columns[self._schema.get_field_index(name)] = column
        return found

    def _reorder(self, rows: pa.Array) -> None:
        """Put other rows in place of these, a field after the other."""
        for place, column in enumerate(self._columns):
            self._columns[place] = column.take(rows)
            del column
            _release()

    def _copy(self) -> Self:
        found = type(self).__new__(type(self))
        found.__dict__.update(self.__dict__)
        found._columns = list(self._columns)
        return found

    def _objects(self, columns: list[pa.Array]) -> list[Record]:
        return [self.kind(*values) for values in zip(*map(values_of, columns), strict=True)]


def schema_of(kind: type, repeated: frozenset[str] = frozenset()) -> pa.Schema:
    """A column for each field."""
    hints = get_type_hints(kind)
    columns = []
    for field in fields(kind):
        kinds = (hints[field.name], *get_args(hints[field.name]))
        found = next(TYPES[each] for each in kinds if each in TYPES)
        if field.name in repeated:
            found = pa.dictionary(pa.int32(), found)
        columns.append((field.name, found))
    return pa.schema(columns)


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values of a field as an array."""
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        encoded = [None if v is None else v.encode("utf-8", "surrogatepass") for v in values]
        return pa.array(encoded, kind)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """As `array_of`; without any value it is one of nulls, which takes no memory."""
    found = array_of(values, kind)
    return pa.nulls(len(found)) if found.null_count == len(found) else found


def _joined(arrays: list[pa.Array], kind: pa.DataType) -> pa.Array:
    if arrays and all(pa.types.is_null(array.type) for array in arrays):
        return pa.nulls(sum(map(len, arrays)))
    return pa.chunked_array([array.cast(kind) for array in arrays], kind).combine_chunks()


def values_of(column: pa.Array) -> list[Any]:
    """The values of a field; the inverse of `array_of`."""
    if pa.types.is_dictionary(column.type):
        # Decoded once each.
        values, codes = [*values_of(column.dictionary), None], column.indices
        return [values[code] for code in pc.fill_null(codes, len(values) - 1).to_pylist()]
    if not pa.types.is_large_binary(column.type):
        return column.to_pylist()
    try:
        return column.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        encoded = column.to_pylist()
        return [None if v is None else v.decode("utf-8", "surrogatepass") for v in encoded]


def _release() -> None:
    """Give freed memory back, which Arrow would keep for later use."""
    pa.default_memory_pool().release_unused()
