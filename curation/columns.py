"""Every column of every table, filters' signals included, as docs/manifest.md lists them. `python -m curation.columns` rewrites it."""

from pathlib import Path

import pyarrow as pa

from curation.clips.schema import CUTS, LEDGER, TABLES, Column
from curation.contracts import filters

BEGIN, END = "<!-- columns: written by `python -m curation.columns` -->", "<!-- end of columns -->"


def all_columns() -> dict[str, tuple[Column, ...]]:
    """Table -> its columns; `ledger` is the view, `cuts` the index of cut clips."""
    signals = tuple(
        Column(name=s.name, type=pa.float64(), unit=s.unit, writer=f"{each.stage}/{_file(each)}", meaning=s.meaning)
        for each in filters()
        for s in each.signals
    )
    return {name: own + (signals if name == "clips" else ()) for name, own in TABLES.items()} | {
        "ledger": LEDGER,
        "cuts": CUTS,
    }


def _file(each: object) -> str:
    return type(each).__module__.rsplit(".", 1)[1]


def as_markdown() -> str:
    """One Markdown table per table."""
    lines = []
    for table, own in all_columns().items():
        lines += [f"### {table}", "", "| column | type | unit | written by | meaning |", "|---|---|---|---|---|"]
        lines += [f"| `{c.name}` | {_type(c.type)} | {c.unit} | {c.writer} | {c.meaning} |" for c in own]
        lines.append("")
    return "\n".join(lines)


def _type(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def rewrite(path: Path) -> None:
    """Put today's columns between the two marks of a Markdown file."""
    text = path.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{as_markdown()}\n{END}{after}")


if __name__ == "__main__":
    rewrite(Path(__file__).parent.parent / "docs" / "manifest.md")
