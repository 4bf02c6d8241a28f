"""Arrow rows as COPY … (FORMAT BINARY) reads them, made by columns: a third of what text costs both sides.

A row is its number of fields, then per field its length and its bytes, big-endian; null has the length -1 and no bytes. So rows
are laid out at full width, side by side, and the bytes that a row does not have are left out.

Source: PostgreSQL documentation, COPY, "Binary Format".
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
EPOCH_US = 946_684_800_000_000
"""PostgreSQL's time begins on 2000-01-01."""
JSONB_VERSION = 1
MATRIX_BYTES = 16 << 20
"""Rows are laid out in portions of at most about this size."""

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


def as_binary(rows: pa.Table) -> Iterator[bytes]:
    """Yields rows in binary, without header and trailer.

    Args:
        rows: of columns of int64, float64, timestamp (microseconds) and text that is JSON.

    Raises:
        TypeError: another type.
    """
    combined = rows.combine_chunks()
    longest = max((_longest(column) for column in combined.columns if pa.types.is_string(column.type)), default=0)
    width = 2 + rows.num_columns * 12 + longest
    step = max(1, MATRIX_BYTES // width)
    for start in range(0, rows.num_rows, step):
        yield _laid_out(combined.slice(start, step))


def _laid_out(rows: pa.Table) -> bytes:
    count = rows.num_rows
    parts: list[Bytes] = [np.broadcast_to(_big_endian(np.array([rows.num_columns], ">i2")), (count, 2))]
    kept: list[Flags] = [np.ones((count, 2), np.bool_)]
    for column in rows.columns:
        array = column.chunk(0) if column.num_chunks else column.combine_chunks()
        data, mask = _text(array) if pa.types.is_string(array.type) else _number(array)
        parts += data
        kept += mask
    flat: Bytes = np.concatenate(parts, axis=1)[np.concatenate(kept, axis=1)]
    return flat.tobytes()


def _number(array: Any) -> tuple[list[Bytes], list[Flags]]:
    count, there = len(array), _there(array)
    if pa.types.is_timestamp(array.type):
        values = (_filled(array.cast(pa.timestamp("us")).view(pa.int64())) - EPOCH_US).astype(">i8")
    elif pa.types.is_int64(array.type):
        values = _filled(array).astype(">i8")
    elif pa.types.is_float64(array.type):
        values = _filled(array).astype(">f8")
    else:
        raise TypeError(f"a column of type {array.type} cannot be written in binary")
    lengths = np.where(there, 8, -1).astype(">i4")
    return [_big_endian(lengths), _big_endian(values)], [np.ones((count, 4), np.bool_), np.repeat(there[:, None], 8, axis=1)]


def _text(array: Any) -> tuple[list[Bytes], list[Flags]]:
    """JSON as jsonb reads it: a version, then the text, of a length that differs from row to row."""
    count, there = len(array), _there(array)
    _, offsets, content = array.buffers()
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + count + 1].astype(np.int64)
    sizes = np.where(there, np.diff(bounds), 0)
    widest = int(sizes.max(initial=0))
    raw = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(1, np.uint8)
    places = np.minimum(bounds[:-1, None] + np.arange(widest), len(raw) - 1)
    lengths = np.where(there, sizes + 1, -1).astype(">i4")
    version = np.full((count, 1), JSONB_VERSION, np.uint8)
    masks = [np.ones((count, 4), np.bool_), there[:, None], np.arange(widest) < sizes[:, None]]
    return [_big_endian(lengths), version, raw[places]], masks


def _longest(column: Any) -> int:
    return max((int(np.diff(np.frombuffer(chunk.buffers()[1], np.int32)).max(initial=0)) for chunk in column.chunks), default=0)


def _there(array: Any) -> Flags:
    flags: Flags = array.is_valid().to_numpy(zero_copy_only=False)
    return flags


def _filled(array: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = array.fill_null(0).to_numpy(zero_copy_only=False)
    return values


def _big_endian(values: npt.NDArray[Any]) -> Bytes:
    """Returns the bytes of each value, a row for each."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.dtype.itemsize)
