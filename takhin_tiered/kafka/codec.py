"""The wire format of Kafka's messages: dataclasses whose fields carry their type and the versions that have them.

A message class is a ``@dataclass(slots=True)`` whose fields are declared by the functions of `fields` in the order of
Kafka's message definitions. A field that a version lacks keeps its default when it is decoded, and is left out when it
is encoded. Tagged fields are skipped: none of them says anything to this
endpoint.

Source: Kafka, "Protocol Guide" (protocol types), KIP-482 (flexible versions).
"""

from __future__ import annotations

import dataclasses
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn, TypeVar

from takhin_tiered.bulk import FileRange

Message = TypeVar("Message")
MOST_ELEMENTS = 100_000
"""In all arrays of one message together. An element takes up to twenty times as many bytes in memory as in a frame."""
_VARINT_BYTES = 5
_MOST = (1 << 31) - 1


class Malformed(ValueError):
    """These bytes are not such a message."""


Part = bytes | memoryview | FileRange
Records = Sequence[Part]
"""Record batches as they are stored, in pieces: neither joined nor copied."""


def size_of(parts: Sequence[Part]) -> int:
    return sum(part.size if isinstance(part, FileRange) else len(part) for part in parts)


def decode(cls: type[Message], data: memoryview, version: int, flexible: bool) -> Message:
    """`Malformed` unless the bytes are one such message, and nothing after it."""
    message, rest = decode_first(cls, data, version, flexible)
    if len(rest):
        raise Malformed(f"{len(rest)} bytes too many")
    return message


def decode_first(cls: type[Message], data: memoryview, version: int, flexible: bool) -> tuple[Message, memoryview]:
    """A message that the bytes begin with, and the rest of them."""
    source = _Source(data)
    of: Any = cls
    message: Message = _struct_reader(of, version, flexible)(source)
    return message, data[source.at :]


def encode(message: object, version: int, flexible: bool) -> list[Part]:
    target = _Target()
    of: Any = type(message)
    _struct_writer(of, version, flexible)(target, message)
    target.flush()
    return target.parts


class _Source:
    """Bytes that are read from the front."""

    __slots__ = ("at", "data", "elements", "end")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0
        self.end = len(data)
        self.elements = MOST_ELEMENTS

    def take(self, size: int) -> memoryview:
        """The next bytes, as a view."""
        at = self.at
        if size > self.end - at:
            raise Malformed(f"{size} bytes announced, {self.end - at} there")
        self.at = at + size
        return self.data[at : self.at]

    def varint(self) -> int:
        value = 0
        for place in range(_VARINT_BYTES):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise Malformed("a variable-length number without an end")

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.take(self.varint())


class _Target:
    """Bytes that are written one after another; record data stays in parts of its own."""

    __slots__ = ("bytes", "parts")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.bytes = bytearray()

    def flush(self) -> None:
        if self.bytes:
            self.parts.append(bytes(self.bytes))
            self.bytes.clear()

    def varint(self, value: int) -> None:
        while value >= 0x80:
            self.bytes.append(value & 0x7F | 0x80)
            value >>= 7
        self.bytes.append(value)


_Reader = Callable[[_Source], Any]
_Writer = Callable[[_Target, Any], None]


class Type(ABC):
    """How a field stands on the wire."""

    @abstractmethod
    def least(self, version: int, flexible: bool) -> int:
        """How many bytes a value takes at least."""

    @abstractmethod
    def reader(self, version: int, flexible: bool) -> _Reader: ...

    @abstractmethod
    def writer(self, version: int, flexible: bool) -> _Writer: ...


class Number(Type):
    def __init__(self, form: str) -> None:
        self._struct = struct.Struct(f">{form}")

    def least(self, version: int, flexible: bool) -> int:
        return self._struct.size

    def reader(self, version: int, flexible: bool) -> _Reader:
        size, unpack = self._struct.size, self._struct.unpack

        def read(source: _Source) -> Any:
            return unpack(source.take(size))[0]

        return read

    def writer(self, version: int, flexible: bool) -> _Writer:
        pack = self._struct.pack

        def write(target: _Target, value: Any) -> None:
            target.bytes += pack(value)

        return write


class _Length:
    """What stands before text, bytes and arrays: a number, or in flexible versions a varint that is one more."""

    def __init__(self, form: str, flexible: bool) -> None:
        self._number = Number(form)
        self._read, self._write = self._number.reader(0, False), self._number.writer(0, False)
        self._flexible = flexible

    def read(self, source: _Source) -> int:
        """-1 stands for null."""
        length: int = source.varint() - 1 if self._flexible else self._read(source)
        if not -1 <= length <= _MOST:
            raise Malformed(f"a length of {length}")
        return length

    def write(self, target: _Target, length: int) -> None:
        if self._flexible:
            target.varint(length + 1)
        else:
            self._write(target, length)


def _refuse_null() -> NoReturn:
    raise Malformed("null, which this field cannot be")


class _Sized(Type):
    """A length, and so many bytes."""

    form = "i"

    def __init__(self, *, nullable: bool = False, ever_compact: bool = True) -> None:
        self._nullable, self._ever_compact = nullable, ever_compact

    def least(self, version: int, flexible: bool) -> int:
        return 1 if flexible and self._ever_compact else struct.calcsize(f">{self.form}")

    def reader(self, version: int, flexible: bool) -> _Reader:
        read_length, value_of = _Length(self.form, flexible and self._ever_compact).read, self.value_of
        null = self.null if self._nullable else _refuse_null

        def read(source: _Source) -> Any:
            length = read_length(source)
            return value_of(source.take(length)) if length >= 0 else null()

        return read

    def null(self) -> Any:
        return None

    @abstractmethod
    def value_of(self, data: memoryview) -> Any: ...


class Text(_Sized):
    form = "h"

    def value_of(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise Malformed("text that is not UTF-8") from None

    def writer(self, version: int, flexible: bool) -> _Writer:
        write_length, nullable = _Length(self.form, flexible and self._ever_compact).write, self._nullable

        def write(target: _Target, value: str | None) -> None:
            if value is None and nullable:
                write_length(target, -1)
                return
            assert value is not None
            data = value.encode()
            write_length(target, len(data))
            target.bytes += data

        return write


class Binary(_Sized):
    def value_of(self, data: memoryview) -> bytes:
        return bytes(data)

    def writer(self, version: int, flexible: bool) -> _Writer:
        write_length = _Length(self.form, flexible).write

        def write(target: _Target, value: bytes) -> None:
            write_length(target, len(value))
            target.bytes += value

        return write


class RecordData(_Sized):
    def __init__(self) -> None:
        super().__init__(nullable=True)

    def null(self) -> Records:
        return ()

    def value_of(self, data: memoryview) -> Records:
        return (data,)

    def writer(self, version: int, flexible: bool) -> _Writer:
        write_length = _Length(self.form, flexible).write

        def write(target: _Target, value: Records) -> None:
            write_length(target, size_of(value))
            target.flush()
            target.parts += value

        return write


class Array(Type):
    form = "i"

    def __init__(self, of: Type, *, nullable: bool = False) -> None:
        self._of, self._nullable = of, nullable

    def least(self, version: int, flexible: bool) -> int:
        return 1 if flexible else 4

    def reader(self, version: int, flexible: bool) -> _Reader:
        read_length, read_one = _Length(self.form, flexible).read, self._of.reader(version, flexible)
        least = self._of.least(version, flexible)
        nullable = self._nullable

        def read(source: _Source) -> list[Any] | None:
            count = read_length(source)
            if count < 0 and nullable:
                return None
            if count < 0:
                _refuse_null()
            # Before anything is allocated for them.
            if count * least > source.end - source.at:
                raise Malformed(f"{count} elements announced, {source.end - source.at} bytes there")
            source.elements -= count
            if source.elements < 0:
                raise Malformed(f"more than {MOST_ELEMENTS} elements")
            return [read_one(source) for _ in range(count)]

        return read

    def writer(self, version: int, flexible: bool) -> _Writer:
        write_length, write_one = _Length(self.form, flexible).write, self._of.writer(version, flexible)
        nullable = self._nullable

        def write(target: _Target, value: Sequence[Any] | None) -> None:
            if value is None and nullable:
                write_length(target, -1)
                return
            assert value is not None
            write_length(target, len(value))
            for each in value:
                write_one(target, each)

        return write


class Struct(Type):
    def __init__(self, cls: type) -> None:
        self._cls = cls

    def least(self, version: int, flexible: bool) -> int:
        return sum(kind.least(version, flexible) for _, kind in _fields(self._cls, version)) + flexible

    def reader(self, version: int, flexible: bool) -> _Reader:
        return _struct_reader(self._cls, version, flexible)

    def writer(self, version: int, flexible: bool) -> _Writer:
        return _struct_writer(self._cls, version, flexible)


@dataclass(frozen=True, slots=True)
class Wire:
    type: Type
    since: int
    until: int


def _fields(cls: Any, version: int) -> list[tuple[str, Type]]:
    """What stands on the wire in this version, in order."""
    declared = [(field.name, field.metadata["wire"]) for field in dataclasses.fields(cls)]
    return [(name, wire.type) for name, wire in declared if wire.since <= version <= wire.until]


@cache
def _struct_reader(cls: type, version: int, flexible: bool) -> _Reader:
    fields = [(name, kind.reader(version, flexible)) for name, kind in _fields(cls, version)]

    def read(source: _Source) -> Any:
        message = cls(**{name: read_field(source) for name, read_field in fields})
        if flexible:
            source.skip_tags()
        return message

    return read


@cache
def _struct_writer(cls: type, version: int, flexible: bool) -> _Writer:
    fields = [(name, kind.writer(version, flexible)) for name, kind in _fields(cls, version)]

    def write(target: _Target, message: Any) -> None:
        for name, write_field in fields:
            write_field(target, getattr(message, name))
        if flexible:
            target.bytes.append(0)

    return write
