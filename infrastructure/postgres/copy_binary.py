"""PostgreSQL's binary COPY format straight from numpy: no loop over rows, and chunks in flight while the next is made.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.copy import QueuedLibpqWriter

from infrastructure.postgres.database import Connection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns = Mapping[str, "NDArray[np.generic] | int"]

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


def copy_rows(
    connection: Connection, table: sql.Composable, columns: Sequence[tuple[str, str]], chunks: Iterable[Columns]
) -> None:
    """COPY rows into ``table`` on the connection's transaction. They are sent from a thread of their own.

    Args:
        connection: in a transaction, which the caller commits.
        table: quoted name.
        columns: name and big-endian numpy type of each, of the exact width of the column's type (``>i8`` for bigint).
        chunks: for each chunk every column by name, as an array or as one number for all rows.
    """
    import numpy as np

    row = np.dtype(
        [("fields", ">i2")] + [entry for name, kind in columns for entry in ((f"{name} length", ">i4"), (name, kind))]
    )
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table, names)
    with connection.cursor() as cursor, cursor.copy(statement, writer=QueuedLibpqWriter(cursor)) as copy:
        copy.write(_HEADER)
        for chunk in chunks:
            size = max(np.size(values) for values in chunk.values())
            block = np.empty(size, dtype=row)
            block["fields"] = len(columns)
            for name, kind in columns:
                block[f"{name} length"] = np.dtype(kind).itemsize
                block[name] = chunk[name]
            copy.write(block.tobytes())
        copy.write(_TRAILER)
