"""Rows in the form the caller accepts: JSON, an Arrow stream or CSV."""

import csv
import io
import json
from typing import Any, Literal

import pyarrow as pa
from fastapi import HTTPException
from fastapi.responses import Response

from api.pages import Page, plain

Form = Literal["application/json", "application/vnd.apache.arrow.stream", "text/csv"]
ARROW: Form = "application/vnd.apache.arrow.stream"
FORMS: tuple[Form, ...] = ("application/json", ARROW, "text/csv")
DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            ARROW: {"schema": {"type": "string", "format": "binary"}},
            "text/csv": {"schema": {"type": "string"}},
        },
        "headers": {
            "x-next-cursor": {"schema": {"type": "string"}, "description": "`next`, where the body is no JSON."}
        },
    }
}


def accepted(accept: str | None) -> Form:
    """The form that the Accept header ranks first; JSON among equals. Raises 406."""
    best: tuple[float, Form] | None = None
    for part in (accept or "*/*").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            rank = float(weight)
        except ValueError:
            rank = 0.0
        for form in FORMS:
            if kind in (form, "*/*", f"{form.partition('/')[0]}/*") and rank > (best[0] if best else 0.0):
                best = rank, form
                break
    if best is None:
        raise HTTPException(406, f"this is offered as {', '.join(FORMS)}; say so in the Accept header")
    return best[1]


def table_bytes(table: pa.Table, form: Form) -> bytes:
    """The rows as an Arrow stream, or as CSV with a header, where lists and structures are JSON."""
    if form == ARROW:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()
    text = io.StringIO(newline="")
    writer_of_lines = csv.writer(text)
    writer_of_lines.writerow(table.column_names)
    for row in table.to_pylist():
        writer_of_lines.writerow(
            [json.dumps(plain(value)) if isinstance(value, list | dict) else plain(value) for value in row.values()]
        )
    return text.getvalue().encode()


def table_answer(page: Page, form: Form, headers: dict[str, str]) -> Response:
    """A page that is no JSON; its cursor travels in a header."""
    told = {"content-disposition": "attachment", **headers}
    if page.next:
        told["x-next-cursor"] = page.next
    return Response(table_bytes(page.table, form), media_type=form, headers=told)
