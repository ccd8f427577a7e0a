"""The geometry of the page's pictures: a funnel, lines over steps, dots along a scale. Templates draw what is computed here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from curation.ledger import FunnelStep

BAR = 8.0  # width of a funnel's uprights
ROOM = 180.0  # height of everything that entered
DROP = 22.0  # between what goes on and what leaves
LABEL = 150.0  # right of the last upright


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A path or an upright, and the style it is drawn in."""

    kind: str
    d: str


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at a place."""

    x: float
    y: float
    text: str
    kind: str = ""
    anchor: str = "start"


@dataclass(kw_only=True)
class Drawing:
    """What a template needs to write an <svg>."""

    width: float
    height: float
    title: str
    shapes: list[Shape] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def draw_funnel(steps: Sequence[FunnelStep], entered: int, width: float = 1120.0) -> Drawing:
    """Clips in pipeline order, as wide as they are many: blue goes on, red leaves. Rules that took nothing are left out."""
    taking = [step for step in steps if step.rejected]
    unit = ROOM / entered if entered else 0.0
    stride = (width - LABEL) / max(1, len(taking))
    told = "; ".join(f"{step.rule} takes {step.rejected}, {step.left} left" for step in taking)
    drawing = Drawing(width=width, height=0.0, title=f"{entered} clips enter; {told or 'all stay'}")
    top, lowest, left = 8.0, 8.0 + ROOM, entered
    drawing.shapes.append(_upright("goes", 0.0, top, entered * unit))
    drawing.labels.append(Label(x=BAR + 6, y=top + entered * unit / 2 + 4, text=f"{entered} clips", kind="on"))
    for number, step in enumerate(taking):
        start, end = number * stride + BAR, (number + 1) * stride
        stays, leaves = step.left * unit, step.rejected * unit
        gone = top + stays + DROP
        if step.left:
            drawing.shapes.append(_band("stays", start, top, stays, end, top, stays))
        drawing.shapes.append(_band("leaves", start, top + (left - step.rejected) * unit, leaves, end, gone, leaves))
        if step.left:
            drawing.shapes.append(_upright("goes", end, top, stays))
        drawing.shapes.append(_upright("gone", end, gone, leaves))
        last = number == len(taking) - 1
        drawing.labels.append(
            Label(
                x=end + BAR + 6, y=top + stays / 2 + 4, text=f"{step.left} kept" if last else f"{step.left}", kind="on"
            )
        )
        rule = step.rule.partition(".")[2].replace("_", " ") or step.rule
        middle = gone + leaves / 2
        drawing.labels.append(Label(x=end + BAR + 6, y=middle + 1, text=f"✕ {rule} {step.rejected}", kind="out"))
        drawing.labels.append(Label(x=end + BAR + 6, y=middle + 14, text=step.stage, kind="stage"))
        left = step.left
        lowest = max(lowest, gone + leaves, middle + 16)
    drawing.height = lowest + 6
    return drawing


def _upright(kind: str, x: float, y: float, height: float) -> Shape:
    return Shape(kind=kind, d=f"M{x:.1f} {y:.1f}h{BAR:.1f}v{max(height, 1.5):.1f}h{-BAR:.1f}z")


def _band(kind: str, x0: float, y0: float, h0: float, x1: float, y1: float, h1: float) -> Shape:
    mid = (x0 + x1) / 2
    upper = f"M{x0:.1f} {y0:.1f}C{mid:.1f} {y0:.1f} {mid:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    lower = f"V{y1 + h1:.1f}C{mid:.1f} {y1 + h1:.1f} {mid:.1f} {y0 + h0:.1f} {x0:.1f} {y0 + h0:.1f}z"
    return Shape(kind=kind, d=upper + lower)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A level to compare a curve with: a dashed line across, and its name."""

    value: float
    name: str
    kind: str = "level"


def draw_lines(
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    bars: Sequence[Bar],
    *,
    title: str,
    logarithmic: bool = False,
    points: Sequence[tuple[int, float, str]] = (),
    width: float = 540.0,
    height: float = 250.0,
) -> Drawing:
    """Curves (style, [(step, value)]) over steps, with levels across and named points. Values that are no numbers are left out."""
    finite = [
        (kind, [(s, v) for s, v in curve if math.isfinite(v) and (v > 0 or not logarithmic)]) for kind, curve in curves
    ]
    values = [v for _, curve in finite for _, v in curve] + [bar.value for bar in bars] + [v for _, v, _ in points]
    drawing = Drawing(width=width, height=height, title=title)
    if not values:
        return drawing
    axis = _Axis.of(values, 12.0, height - 28.0, logarithmic)
    left, right = 42.0, width - 12.0
    last = max((s for _, curve in finite for s, _ in curve), default=1)

    def across(step: float) -> float:
        return left + (right - left) * step / max(1, last)

    for tick in axis.ticks:
        y = axis.place(tick)
        drawing.shapes.append(Shape(kind="grid", d=f"M{left:.1f} {y:.1f}H{right:.1f}"))
        drawing.labels.append(Label(x=left - 6, y=y + 4, text=f"{tick:g}", anchor="end"))
    for step in _round_ticks(0, last, 5):
        drawing.labels.append(Label(x=across(step), y=height - 10, text=f"{step:g}", anchor="middle"))
    drawing.labels.append(
        Label(
            x=right,
            y=height - 10,
            text="steps" if across(last) - across(max(_round_ticks(0, last, 5))) > 40 else "",
            anchor="end",
        )
    )
    for kind, curve in finite:
        if curve:
            line = "L".join(f"{across(s):.1f} {axis.place(v):.1f}" for s, v in _thinned(curve))
            drawing.shapes.append(Shape(kind=kind, d=f"M{line}"))
    taken: list[float] = []
    for bar in sorted(bars, key=lambda bar: -bar.value):
        y = axis.place(bar.value)
        drawing.shapes.append(Shape(kind=bar.kind, d=f"M{left:.1f} {y:.1f}H{right:.1f}"))
        at = y - 5 if all(abs(y - 5 - other) >= 13 for other in taken) else y + 14
        taken.append(at)
        drawing.labels.append(Label(x=right, y=at, text=bar.name, kind=bar.kind, anchor="end"))
    for step, value, name in points:
        x, y = across(step), axis.place(value)
        drawing.shapes.append(Shape(kind="point", d=_circle(x, y, 4.5)))
        drawing.labels.append(Label(x=x - 9, y=y + 16, text=name, kind="point", anchor="end"))
    return drawing


def draw_dots(rows: Sequence[tuple[str, float, float]], *, title: str, unit: str, width: float = 540.0) -> Drawing:
    """A line a row: its name, its value (a full dot) and the level to beat (a ring)."""
    step, top, left = 26.0, 10.0, 226.0
    drawing = Drawing(width=width, height=top + step * len(rows) + 24, title=title)
    values = [v for _, a, b in rows for v in (a, b)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    ticks = _round_ticks(low - 0.5, high + 0.5, 6)
    low, high = min(low - 0.5, ticks[0]), max(high + 0.5, ticks[-1])

    def across(value: float) -> float:
        return left + (width - 16 - left) * (value - low) / (high - low)

    for tick in ticks:
        drawing.shapes.append(Shape(kind="grid", d=f"M{across(tick):.1f} {top:.1f}V{top + step * len(rows):.1f}"))
        drawing.labels.append(Label(x=across(tick), y=drawing.height - 8, text=f"{tick:g}", anchor="middle"))
    drawing.labels.append(Label(x=left - 12, y=drawing.height - 8, text=unit, anchor="end"))
    for number, (name, value, level) in enumerate(rows):
        y = top + step * (number + 0.5)
        kind = "wins" if value >= level else "loses"
        drawing.shapes.append(Shape(kind=kind, d=f"M{across(level):.1f} {y:.1f}H{across(value):.1f}"))
        drawing.shapes.append(Shape(kind="ring", d=_circle(across(level), y, 4.5)))
        drawing.shapes.append(Shape(kind="point", d=_circle(across(value), y, 4.5)))
        drawing.labels.append(Label(x=left - 12, y=y + 4, text=name, anchor="end"))
    return drawing


@dataclass(frozen=True, kw_only=True)
class _Axis:
    low: float
    high: float
    top: float
    bottom: float
    logarithmic: bool
    ticks: list[float]

    @classmethod
    def of(cls, values: Sequence[float], top: float, bottom: float, logarithmic: bool) -> "_Axis":
        low, high = min(values), max(values)
        if logarithmic:
            low, high = low / 1.12, high * 1.12
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            fine = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
            ticks = fine if len(fine) >= 2 else _round_ticks(low, high, 4)
        else:
            low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
            ticks = _round_ticks(low, high, 5)
        return cls(low=low, high=high, top=top, bottom=bottom, logarithmic=logarithmic, ticks=ticks)

    def place(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-12))
        return self.bottom - (self.bottom - self.top) * (at - low) / (high - low)


def _round_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about so many."""
    raw = (high - low) / max(1, about) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [round(n * size, 10) for n in range(first, math.floor(high / size + 1e-9) + 1)] or [low]


def _thinned(curve: Sequence[tuple[int, float]], most: int = 400) -> list[tuple[int, float]]:
    """At most so many points, the last among them."""
    stride = max(1, math.ceil(len(curve) / most))
    return [*curve[::stride], *([] if (len(curve) - 1) % stride == 0 else [curve[-1]])]


def smoothed(curve: Sequence[tuple[int, float]], share: float = 0.03) -> list[tuple[int, float]]:
    """Running mean over the last `share` of the curve's length."""
    window = max(1, round(len(curve) * share))
    return [
        (step, sum(v for _, v in curve[max(0, i + 1 - window) : i + 1]) / min(i + 1, window))
        for i, (step, _) in enumerate(curve)
    ]


def _circle(x: float, y: float, radius: float) -> str:
    return f"M{x - radius:.1f} {y:.1f}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0z"
