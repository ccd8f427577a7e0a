"""Results as text: one aligned table each, then checks, targets and what was not measured."""

from typing import Any

Section = dict[str, Any]  # name, status, error, seconds, lines


def failures(sections: list[Section]) -> list[str]:
    """What makes the command fail: sections that broke, and checks that did not pass."""
    found = [f"{s['name']}: {s['error']}" for s in sections if s["status"] == "failed"]
    checks = [line for section in sections for line in section["lines"] if line["kind"] == "check"]
    return found + [f"{c['what']}: {_difference(c)}" for c in checks if not c["passed"]]


def render(sections: list[Section]) -> str:
    """Everything, tables in the order they were begun."""
    lines = [line for section in sections for line in section["lines"]]
    machine: dict[str, Any] = next((line for line in lines if line["kind"] == "machine"), {})
    parts = [", ".join(f"{name} {value}" for name, value in machine.items() if name != "kind")]
    for section in sections:
        parts.append(f"== {section['name']}: {section['status']} in {section['seconds']:.0f} s ==")
        if section["error"]:
            parts.append(section["error"])
        tables: dict[str, list[dict[str, Any]]] = {}
        for line in section["lines"]:
            if line["kind"] == "row":
                tables.setdefault(line["table"], []).append(line["columns"])
        for name, rows in tables.items():
            parts.append(f"{name}\n{_table(rows)}")
        missing: dict[str, list[str]] = {}
        for line in section["lines"]:
            if line["kind"] == "missing":
                missing.setdefault(line["why"], []).append(line["what"])
        parts += [f"not measured ({why}):\n  " + "\n  ".join(what) for why, what in missing.items()]
    checks = [{
        "check": line["what"],
        "difference": _difference(line),
        "at most": line["limit"],
        "result": "ok" if line["passed"] else "FAILED",
    } for line in lines if line["kind"] == "check"]  # fmt: skip
    targets = [{
        "target": line["what"],
        "measured": line["value"],
        "goal": f"{'at most' if line['at_most'] else 'at least'} {line['goal']:g} {line['unit']}",
        "result": _reached(line),
    } for line in lines if line["kind"] == "target"]  # fmt: skip
    for name, rows in (("== checks ==", checks), ("== targets ==", targets)):
        if rows:
            parts.append(f"{name}\n{_table(rows)}")
    broken = failures(sections)
    parts.append("\n".join(["FAILED", *(f"  {what}" for what in broken)]) if broken else "every check passed")
    return "\n\n".join(parts)


def _difference(check: dict[str, Any]) -> str:
    return check["why"] or _cell(check["value"])


def _reached(target: dict[str, Any]) -> str:
    if target["on"] != "cuda":
        return "a CPU: nothing is claimed"
    if target["value"] is None:
        return "not measured"
    met = target["value"] <= target["goal"] if target["at_most"] else target["value"] >= target["goal"]
    return "reached" if met else "missed"


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    number = [all(not isinstance(row.get(name), str) for row in rows) for name in names]
    return "\n".join(
        "  ".join(
            text.rjust(w) if right else text.ljust(w) for text, w, right in zip(line, widths, number, strict=True)
        ).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == value):
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    return f"{value:.3g}"
