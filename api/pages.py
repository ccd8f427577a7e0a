"""Pages of a table: filters, an order, and an opaque cursor that stays right because a snapshot never changes."""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from api.tables import numeric_columns


class BadPage(ValueError):
    """A filter, an order or a cursor that this table does not have."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows, how many there are under these filters, and where the next page begins (None: this was the last)."""

    rows: list[dict[str, Any]]
    matching: int
    next: str | None


def read_page(
    table: pa.Table, name: str, where: Mapping[str, str], order: str | None, after: str | None, limit: int
) -> Page:
    """At most `limit` rows after the cursor. `where`: column -> text it must equal. Raises BadPage.

    The cursor names the table, the filters, the order and a position. A position is as stable as a key here: the rows
    of a snapshot and their order are fixed, so finding it costs nothing however deep the page lies.
    """
    asked = hashlib.sha256(json.dumps([name, sorted(where.items()), order]).encode()).hexdigest()[:16]
    position = 0 if after is None else _position(after, asked)
    found = _filtered(table, where)
    if order is not None:
        found = _in_order(found, order)
    rows = found.slice(position, limit)
    end = position + rows.num_rows
    following = _cursor(asked, end) if end < found.num_rows else None
    return Page(rows=[plain(row) for row in rows.to_pylist()], matching=found.num_rows, next=following)


def _filtered(table: pa.Table, where: Mapping[str, str]) -> pa.Table:
    for column, value in where.items():
        if column not in table.column_names:
            raise BadPage(f"this table has no column {column!r}; it has {', '.join(table.column_names)}")
        table = table.filter(pc.fill_null(pc.equal(table[column], value), False))
    return table


def _in_order(table: pa.Table, order: str) -> pa.Table:
    column = order.removeprefix("-")
    known = numeric_columns(table)
    if column not in known:
        raise BadPage(f"order={order!r} is not a number of this table; it has {', '.join(known)}; a leading - reverses")
    # Arrow's sort is not stable, so the position among equals decides; what was not measured comes last.
    numbered = pa.table({"by": table[column], "position": pa.array(range(table.num_rows), pa.int64())})
    direction = "descending" if order.startswith("-") else "ascending"
    by = [("by", direction, "at_end"), ("position", "ascending", "at_end")]
    return table.take(pc.sort_indices(numbered, by))


def _cursor(asked: str, position: int) -> str:
    return base64.urlsafe_b64encode(f"{asked}:{position}".encode()).decode().rstrip("=")


def _position(cursor: str, asked: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        made_for, _, position = text.partition(":")
        if not (position.isascii() and position.isdigit() and len(position) < 16):
            raise ValueError(position)
    except (binascii.Error, ValueError):
        raise BadPage("after= is not a cursor of this service; start again without it") from None
    if made_for != asked:
        raise BadPage("after= belongs to another table, filter or order; start again without it")
    return int(position)


def plain(value: Any) -> Any:
    """A value as JSON has it: no NaN or infinity, dates in ISO 8601, bytes only by their number."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value
