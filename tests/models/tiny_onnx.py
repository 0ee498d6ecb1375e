"""An ONNX file made by hand: its numbers one after the other, as onnx.proto has them (https://onnx.ai)."""

from collections.abc import Sequence


def flatten_model(shape: Sequence[int | str], *, axis: int = 1) -> bytes:
    """A model that lays the numbers of its input in a row, from `axis` on.

    Args:
        shape: of its input, floats; a text is a side of any length.
        axis: 1 keeps the images of a batch apart, 0 mixes them.
    """
    attribute = _text(1, "axis") + _number(3, axis) + _number(20, 2)
    node = _text(1, "x") + _text(2, "y") + _text(4, "Flatten") + _part(5, attribute)
    graph = (
        _part(1, node) + _text(2, "flatten") + _part(11, _value("x", shape)) + _part(12, _value("y", ("a", "b")))
    )
    return _number(1, 8) + _part(8, _text(1, "") + _number(2, 13)) + _part(7, graph)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    sides = [_number(1, side) if isinstance(side, int) else _text(2, side) for side in shape]
    tensor = _number(1, 1) + _part(2, b"".join(_part(1, side) for side in sides))
    return _text(1, name) + _part(2, _part(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _part(field, value.encode())


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
