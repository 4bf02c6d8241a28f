"""COPY … TO STDOUT in blocks of whole rows, straight from libpq: half of psycopg's own cost per row."""

from collections.abc import Iterator

import psycopg
from psycopg import errors, pq


def copied_blocks(connection: psycopg.Connection, query: bytes, block_bytes: int) -> Iterator[bytes]:
    """Yields what a COPY sends, in blocks of whole rows.

    Args:
        connection: idle; it waits without being able to be cancelled, so the caller sets a statement_timeout.
        query: COPY (…) TO STDOUT.
        block_bytes: least size of a block, but for the last.

    Raises:
        psycopg.Error: the query failed, or the connection was lost.
    """
    pgconn = connection.pgconn
    pgconn.send_query(query)
    try:
        _expect(pgconn, pq.ExecStatus.COPY_OUT)
        yield from _blocks(pgconn, block_bytes)
        _expect(pgconn, pq.ExecStatus.COMMAND_OK)
    except GeneratorExit:
        connection.close()  # nobody wants the rest
        raise
    _finish(pgconn)


def _blocks(pgconn: pq.abc.PGconn, block_bytes: int) -> Iterator[bytes]:
    receive, block, size = pgconn.get_copy_data, list[bytes | memoryview](), 0
    count, row = receive(0)
    while count > 0:
        block.append(row)
        size += count
        if size >= block_bytes:
            yield b"".join(block)
            block, size = [], 0
        count, row = receive(0)
    if block:
        yield b"".join(block)


def _expect(pgconn: pq.abc.PGconn, expected: pq.ExecStatus) -> None:
    result = pgconn.get_result()
    if result is not None and result.status == expected:
        return
    if result is None:
        raise psycopg.OperationalError("the server closed the connection during COPY")
    sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(errors="replace")
    _finish(pgconn)
    kind = errors.lookup(sqlstate) if sqlstate else psycopg.OperationalError
    raise kind(message.strip() or "COPY failed")


def _finish(pgconn: pq.abc.PGconn) -> None:
    """libpq wants to be asked until there is no more."""
    while pgconn.get_result() is not None:
        pass
