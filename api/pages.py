"""Pages of a table: a filter, an order, and an opaque cursor that stays right because a snapshot never changes.

A cursor holds the key of the last row, so that a page costs the same wherever it lies. The keys of a page are found first, in
the few columns that filter and order name; then the rows of these keys are read.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from api.filters import Filter, Where, to_sql
from api.query import Reader, name_of
from api.tables import KEYS, PARTS, Kind, View, Views

FIRST_WINDOW = 50_000
"""Rows that the first look for a page of a filter over scores goes through; each further look takes four times as many."""
IDS = 16**32
CLIP_ID = re.compile("[0-9a-f]{32}")
NO_CURSOR = "after= is not a cursor of this service; start again without it"


class BadPage(ValueError):
    """An order, a column or a cursor that this table does not have."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question to a table, without the place of the page."""

    where: Filter | None = None
    order: str | None = None
    columns: tuple[str, ...] | None = None

    def digest(self, view: View) -> str:
        """What a cursor belongs to: snapshot, table, filter and order."""
        told = [view.snapshot.name, view.table, self.where and self.where.model_dump(mode="json"), self.order]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some rows, and where the next page begins (None: this was the last). matching: how many rows the filter leaves,
    if that was asked."""

    table: pa.Table
    next: str | None
    matching: int | None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [plain(row) for row in self.table.to_pylist()]


Key = tuple[Any, ...]


def read_page(views: Views, view: View, asked: Asked, after: str | None, limit: int, count: bool = False) -> Page:
    """At most `limit` rows after the cursor. Raises BadPage and BadFilter."""
    where = to_sql(asked.where, view.columns)
    digest = asked.digest(view)
    order = _order(view, asked.order)
    names = _wanted(view, asked.columns)
    part, key = (0, None) if after is None else _parsed(after, digest, view, order is not None)
    tables: list[pa.Table] = []
    found = 0
    following = None
    with views.engine.cursor() as reader:
        for number in range(part, len(PARTS[view.table])):
            kind = PARTS[view.table][number]
            if found == limit:  # the page is full; whether anything is left decides if there is a next one
                if _keys(reader, view, kind, where, order, None, 1):
                    following = cursor_of(digest, number, None)
                    break
                continue
            keys = _keys(reader, view, kind, where, order, key if number == part else None, limit - found + 1)
            if len(keys) > limit - found:
                keys.pop()
                following = cursor_of(digest, number, keys[-1])
            if keys:
                tables.append(_rows(reader, view, kind, names, [key[order is not None :] for key in keys]))
                found += len(keys)
            if following:
                break
        matching = views.counts.get(digest, lambda: _count(reader, view, where)) if count else None
        table = pa.concat_tables(tables) if tables else _rows(reader, view, PARTS[view.table][0], names, [])
    return Page(table=table, next=following, matching=matching)


def read_row(views: Views, view: View, clip_id: str) -> dict[str, Any] | None:
    """The row of one clip, or None; view: of the table `clips`."""
    with views.engine.cursor() as reader:
        found = _rows(reader, view, "clip", list(view.columns), [(clip_id,)])
    return found.to_pylist()[0] if found.num_rows else None


def _wanted(view: View, columns: Sequence[str] | None) -> list[str]:
    for column in columns or ():
        if column not in view.columns:
            raise BadPage(f"this table has no column {column!r}; it has {', '.join(view.columns)}")
    return list(dict.fromkeys(columns)) if columns else list(view.columns)


def _order(view: View, order: str | None) -> tuple[str, bool] | None:
    """The column to order by, and whether the largest comes first."""
    if order is None:
        return None
    column = order.removeprefix("-")
    if column not in view.numbers:
        raise BadPage(
            f"order={order!r} is not a number of this table; it has {', '.join(view.numbers)}; a leading - reverses"
        )
    return column, order.startswith("-")


def _from(
    reader: Reader, view: View, kind: Kind, columns: Collection[str], ends: tuple[str, str] | None = None
) -> tuple[str, tuple[str, ...]]:
    """`FROM ... WHERE ...` of the rows of one kind with these columns, and their keys."""
    if kind == "clip" and view.owns_clips and view.aliases(columns) == {"c"}:
        return f"FROM {view.sources['c'].between(reader, 'clip_id', ends)} c WHERE true", ("c.clip_id",)
    return view.joined(reader, kind, columns, ends), KEYS[kind]


def _count(reader: Reader, view: View, where: Where) -> int:
    total = 0
    for kind in PARTS[view.table]:
        rows, _ = _from(reader, view, kind, where.columns)
        total += reader.rows(f"SELECT count(*) {rows} AND {where.sql}", where.parameters)[0][0]
    return total


def _keys(
    reader: Reader, view: View, kind: Kind, where: Where, order: tuple[str, bool] | None, after: Key | None, limit: int
) -> list[Key]:
    """The keys of the next rows; with an order, its value comes before them."""
    if order is not None:
        return _ordered_keys(reader, view, kind, where, order, after, limit)
    if kind == "clip":
        return _windowed_keys(reader, view, where, after, limit)
    return _plain_keys(reader, view, kind, where, after, limit)


def _plain_keys(
    reader: Reader,
    view: View,
    kind: Kind,
    where: Where,
    after: Key | None,
    limit: int,
    ends: tuple[str, str] | None = None,
) -> list[Key]:
    rows, keys = _from(reader, view, kind, where.columns, ends)
    condition, parameters = "true", list(where.parameters)
    if after is not None:
        # The first part alone lets row groups be passed over; the second decides among equals.
        condition = f"{keys[0]} >= ? AND ({', '.join(keys)}) > ({', '.join('?' * len(keys))})"
        parameters += [after[0], *after]
    sql = f"SELECT {', '.join(keys)} {rows} AND {where.sql} AND {condition}"
    return reader.rows(f"{sql} ORDER BY {', '.join(keys)} LIMIT {limit}", parameters)


def _windowed_keys(reader: Reader, view: View, where: Where, after: Key | None, limit: int) -> list[Key]:
    """Clip ids are hashes, so a range of them is a fair share of all clips: look through ranges until the page is full."""
    total = max(1, view.snapshot.commit.counts.get("clips_in", 0))
    begin = 0 if after is None else int(after[0], 16)
    width = max(1, min(IDS, IDS * (FIRST_WINDOW if where.columns else 2 * limit) // total))
    found: list[Key] = []
    while begin < IDS and len(found) < limit:
        end = min(IDS, begin + width) - 1
        ends = f"{begin:032x}", f"{end:032x}"
        found += _plain_keys(reader, view, "clip", where, after, limit - len(found), ends)
        begin, width = end + 1, 4 * width
    return found


def _ordered_keys(
    reader: Reader, view: View, kind: Kind, where: Where, order: tuple[str, bool], after: Key | None, limit: int
) -> list[Key]:
    """By value, then by key. What was not measured (null, or not a number) comes last, whichever the direction."""
    column, reverse = order
    value = f"CASE WHEN isnan({view.columns[column][0]}::DOUBLE) THEN NULL ELSE {view.columns[column][0]} END"
    rows, keys = _from(reader, view, kind, {*where.columns, column})
    inner = f"SELECT {value} AS value, " + ", ".join(f"{key} AS key{i}" for i, key in enumerate(keys))
    inner += f" {rows} AND {where.sql}"
    names = [f"key{i}" for i in range(len(keys))]
    condition, parameters = "true", list(where.parameters)
    if after is not None:
        beyond = f"({', '.join(names)}) > ({', '.join('?' * len(names))})"
        if after[0] is None:
            condition = f"value IS NULL AND {beyond}"
            parameters += after[1:]
        else:
            condition = f"value IS NULL OR value {'<' if reverse else '>'} ? OR (value = ? AND {beyond})"
            parameters += [after[0], *after]
    sql = f"SELECT value, {', '.join(names)} FROM ({inner}) WHERE {condition} "
    sql += f"ORDER BY value {'DESC' if reverse else 'ASC'} NULLS LAST, {', '.join(names)} LIMIT {limit}"
    return reader.rows(sql, parameters)


def _rows(reader: Reader, view: View, kind: Kind, names: Sequence[str], keys: Sequence[Key]) -> pa.Table:
    """The rows of these keys, in their order: looked up in each table by itself, which costs less than a join of all."""
    of_clip, of_video = KEYS["clip"], KEYS["video"]
    decided = _lookup(reader, view, "d", KEYS[kind], names, keys, [*of_clip, *of_video], view.mine(kind))
    decided = decided.filter(decided["_found"])
    columns = {name: decided[name] for name in decided.column_names}
    for alias in view.aliases(names) - {"d"}:
        on = of_video if alias == "v" else of_clip
        wanted = list(zip(*(decided[key].to_pylist() for key in on), strict=True))
        found = _lookup(reader, view, alias, [key.replace("d.", f"{alias}.") for key in on], names, wanted)
        columns |= {name: found[name] for name in found.column_names}
    return pa.table({name: columns[name] for name in names})


def _lookup(
    reader: Reader, view: View, alias: str, on: Sequence[str], names: Sequence[str], keys: Sequence[Key],
    further: Sequence[str] = (), where: str = "true",
) -> pa.Table:  # fmt: skip
    """Of the columns `names` those of one table, and `further` expressions under their own text as a name: for each key the row
    that has it (`_found`), or nulls. on: the key's parts as SQL."""
    own = [f"{view.columns[name][0]} AS {name_of(name)}" for name in names if view.aliases([name]) == {alias}]
    own += [f"{each} AS {name_of(each)}" for each in further]
    own += [f"{part} AS _key{i}" for i, part in enumerate(on)]
    firsts = sorted({key[0] for key in keys if key[0] is not None}) or [""]
    rows = view.sources[alias].between(reader, on[0].partition(".")[2], (firsts[0], firsts[-1]))
    marks = ", ".join("?" * len(firsts))
    found = reader.small_table(
        f"SELECT {', '.join(own)} FROM {rows} {alias} WHERE {on[0]} IN ({marks}) AND {where}", firsts
    )
    there = zip(*(found[f"_key{i}"].to_pylist() for i in range(len(on))), strict=True)
    place = {key: row for row, key in enumerate(there)}
    places = pa.array([place.get(tuple(key)) for key in keys], pa.int64())
    return found.take(places).append_column("_found", places.is_valid())


def cursor_of(digest: str, part: int, key: Key | None) -> str:
    """Text that only this service's own pages hold: the digest covers the key, so a bent one is noticed."""
    payload = json.dumps([part, key])
    check = hashlib.sha256(f"{digest}{payload}".encode()).hexdigest()[:16]
    return base64.urlsafe_b64encode(f"{digest}{check}{payload}".encode()).decode().rstrip("=")


def _parsed(cursor: str, digest: str, view: View, is_ordered: bool) -> tuple[int, Key | None]:
    """The part of the table and the key after which the page begins. Raises BadPage for anything `_cursor` does not make."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    made_for, check, payload = text[:16], text[16:32], text[32:]
    if hashlib.sha256(f"{made_for}{payload}".encode()).hexdigest()[:16] != check:
        raise BadPage(NO_CURSOR)
    if made_for != digest:
        raise BadPage("after= belongs to another snapshot, table, filter or order; start again without it")
    # The check is against accidents; whoever makes a cursor by hand gets no further than a key can.
    try:
        part, key = json.loads(payload)
    except (ValueError, TypeError):
        raise BadPage(NO_CURSOR) from None
    if type(part) is not int or part not in range(len(PARTS[view.table])) or not isinstance(key, list | None):
        raise BadPage(NO_CURSOR)
    if key is None:
        return part, None
    kind = PARTS[view.table][part]
    names = key[1:] if is_ordered else key
    is_ordered = is_ordered and len(key) > 0
    is_key = len(names) == len(KEYS[kind]) and all(isinstance(name, str) for name in names)
    is_value = not is_ordered or key[0] is None or (isinstance(key[0], int | float) and abs(key[0]) < 2**63)
    if not is_key or not is_value or (kind == "clip" and not CLIP_ID.fullmatch(names[0])):
        raise BadPage(NO_CURSOR)
    return part, tuple(key)


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
