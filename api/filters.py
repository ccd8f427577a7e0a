"""Filters as JSON: comparisons of known columns, joined by all, any and not; they become SQL with parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_CONDITIONS = 64
MAX_DEPTH = 8
MAX_VALUES = 1000
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "null", "not null", "contains", "starts with"]
Single = bool | int | float | Annotated[str, Field(max_length=4096)]
SQL = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE")


class BadFilter(ValueError):
    """A filter that this table does not understand; the message says which part."""


class Condition(BaseModel):
    """One comparison. Null satisfies none but `null`. `contains`: a piece of text, or one element of a list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    column: str = Field(min_length=1, max_length=100)
    operator: Operator = Field(alias="is")
    value: Single | list[Single] | None = None


class All(BaseModel):
    """Every one of these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    every: list["Filter"] = Field(alias="all", min_length=1, max_length=MAX_CONDITIONS)


class AnyOf(BaseModel):
    """At least one of these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    some: list["Filter"] = Field(alias="any", min_length=1, max_length=MAX_CONDITIONS)


class Not(BaseModel):
    """Not this."""

    model_config = ConfigDict(extra="forbid", strict=True)

    no: "Filter" = Field(alias="not")


def _tag(value: Any) -> str:
    """Which of the four something is meant to be, so that a refusal speaks of that one."""
    if isinstance(value, dict):
        return next((tag for tag in ("all", "any", "not") if tag in value), "condition")
    return (
        "all"
        if isinstance(value, All)
        else "any"
        if isinstance(value, AnyOf)
        else "not"
        if isinstance(value, Not)
        else "condition"
    )


Filter = Annotated[
    Annotated[Condition, Tag("condition")]
    | Annotated[All, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")],
    Discriminator(_tag),
]


@dataclass
class Where:
    """A filter as SQL: `sql` has one ? for each of `parameters`."""

    sql: str = "true"
    parameters: list[Any] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)


def equals(wanted: Mapping[str, str]) -> Filter | None:
    """The filter that asks columns to equal texts."""
    found = [
        Condition.model_validate({"column": column, "is": "=", "value": value}) for column, value in wanted.items()
    ]
    return All.model_validate({"all": found}) if found else None


def one_of(column: str, values: Sequence[str]) -> Filter:
    """The filter that asks a column to be one of at most 1,000 texts."""
    return Condition.model_validate({"column": column, "is": "in", "value": list(values)})


def to_sql(asked: Filter | None, columns: Mapping[str, tuple[str, str]]) -> Where:
    """columns: name -> (SQL expression, DuckDB's name of its type). Raises BadFilter."""
    where = Where()
    if asked is not None:
        left = [MAX_CONDITIONS]
        where.sql = _sql(asked, columns, where, left, 1)
    return where


def _sql(asked: Filter, columns: Mapping[str, tuple[str, str]], where: Where, left: list[int], depth: int) -> str:
    if depth > MAX_DEPTH:
        raise BadFilter(f"a filter nests at most {MAX_DEPTH} deep")
    if isinstance(asked, Condition):
        left[0] -= 1
        if left[0] < 0:
            raise BadFilter(f"a filter has at most {MAX_CONDITIONS} conditions")
        return _condition(asked, columns, where)
    if isinstance(asked, Not):
        # coalesce: what cannot be told of a null is not so, and not(not so) must be told
        return f"NOT coalesce({_sql(asked.no, columns, where, left, depth + 1)}, false)"
    parts, word = (asked.every, " AND ") if isinstance(asked, All) else (asked.some, " OR ")
    return "(" + word.join(_sql(part, columns, where, left, depth + 1) for part in parts) + ")"


def _condition(asked: Condition, columns: Mapping[str, tuple[str, str]], where: Where) -> str:
    if asked.column not in columns:
        raise BadFilter(f"this table has no column {asked.column!r}; it has {', '.join(columns)}")
    expression, kind = columns[asked.column]
    where.columns.add(asked.column)
    operator, value = asked.operator, asked.value
    said = f"{asked.column} {operator}"
    if operator in ("null", "not null"):
        if value is not None:
            raise BadFilter(f"{said} takes no value")
        return f"{expression} IS {operator.upper()}"
    if operator == "in":
        if not isinstance(value, list) or not value:
            raise BadFilter(f"{said} asks for a list of values")
        if len(value) > MAX_VALUES:
            raise BadFilter(f"{said} takes at most {MAX_VALUES} values")
        where.parameters += [_typed(each, kind, said) for each in value]
        return f"{expression} IN ({', '.join('?' * len(value))})"
    if value is None or isinstance(value, list):
        raise BadFilter(f"{said} asks for one value; `null` and `not null` find missing ones")
    if operator in ("contains", "starts with"):
        if (
            not isinstance(value, str)
            or kind not in ("VARCHAR", "VARCHAR[]")
            or (operator[0] == "s" and kind[-1] == "]")
        ):
            raise BadFilter(f"{said} asks for a text, of a column of text")
        where.parameters.append(value)
        function = "list_contains" if kind.endswith("[]") else "contains" if operator == "contains" else "starts_with"
        return f"{function}({expression}, ?)"
    if kind.endswith("[]"):
        raise BadFilter(f"{asked.column} is a list; use contains")
    where.parameters.append(_typed(value, kind, said))
    return f"{expression} {SQL[operator]} ?"


def _typed(value: Single, kind: str, said: str) -> Any:
    if kind == "BOOLEAN" and isinstance(value, bool):
        return value
    if kind in NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        if (isinstance(value, int) and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise BadFilter(f"{said}: the number is out of range")
    if kind == "VARCHAR" and isinstance(value, str):
        return value
    words = {"BOOLEAN": "true or false", "VARCHAR": "a text"}
    raise BadFilter(f"{said} asks for {words.get(kind, 'a number')}, not {str(value)[:40]!r}")
