/** Histogram cards with thresholds to drag, the flow from stage to stage, and what rules reject together. SVG, by hand. */

import { h, s, count, percent, short, title, words, SIGNS } from "./dom.js";
import { along, at } from "./model.js";

const WIDTH = 420, HEIGHT = 132, FLOOR = 112;

function ticks(axis) {
  if (axis.scale === "log") {
    const decades = Math.round(Math.log10(axis.high / axis.low));
    return Array.from({ length: decades + 1 }, (_, i) => axis.low * 10 ** i);
  }
  return [0, 0.25, 0.5, 0.75, 1].map((share) => at(axis, share));
}

/** A card that stays while its numbers change. onMove(rule, threshold, done). */
export class FilterCard {
  constructor(axis, rules, onMove) {
    this.axis = axis;
    this.rules = rules;
    this.onMove = onMove;
    this.said = h("p", { class: "note" });
    this.bars = { all: s("path", { class: "all" }), only: s("path", { class: "only" }), kept: s("path", { class: "kept" }) };
    this.inside = s("rect", { class: "inside", y: 0, height: FLOOR });
    this.handles = rules.map((rule) => this.#handle(rule));
    const drawn = s("svg", { viewBox: `0 -4 ${WIDTH} ${HEIGHT + 4}`, class: "histogram", role: "group", "aria-label": `${title(axis.signal)}: histogram` },
      this.inside, this.bars.all, this.bars.only, this.bars.kept, s("line", { class: "floor", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }),
      ...ticks(axis).map((value, i, every) => s("text", {
        x: along(axis, value) * WIDTH, y: FLOOR + 16, "text-anchor": i === 0 ? "start" : i === every.length - 1 ? "end" : "middle",
      }, short(value))),
      ...this.handles.map((handle) => handle.grip));
    this.drawn = drawn;
    this.fields = h("span", { class: "fields" }, ...this.handles.map((handle) => handle.field));
    const unit = axis.unit && !axis.unit.includes("..") ? `, ${axis.unit}` : "";
    this.element = h("article", { class: "card filter", title: axis.meaning || undefined },
      h("h2", {}, title(axis.signal) + unit), this.fields, this.said, drawn);
  }

  #handle(rule) {
    const field = h("input", {
      type: "number", step: "any", "aria-label": `${rule.rule}: keep ${SIGNS[rule.comparison]}`,
      onchange: () => this.onMove(rule, field.value === "" ? rule.saved : Number(field.value), true),
    });
    field.addEventListener("input", () => (field.style.width = `${field.value.length + 0.6}ch`));
    const grip = s("g", { class: "grip", tabindex: 0, role: "slider", "aria-label": `Threshold of ${rule.rule}`, "aria-valuemin": this.axis.low, "aria-valuemax": this.axis.high },
      s("line", { y1: 0, y2: FLOOR }), s("circle", { cy: FLOOR / 2, r: 6 }), s("rect", { x: -10, y: 0, width: 20, height: FLOOR, class: "reach" }));
    grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      grip.focus({ preventScroll: true });
      grip.setPointerCapture(event.pointerId);
    });
    grip.addEventListener("pointermove", (event) => {
      if (!grip.hasPointerCapture(event.pointerId)) return;
      const box = this.drawn.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      this.onMove(rule, Number(at(this.axis, share).toPrecision(3)), false);
    });
    grip.addEventListener("pointerup", () => this.onMove(rule, rule.threshold, true));
    grip.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (event.key === "Escape") this.onMove(rule, rule.saved, true);
      if (!steps) return;
      event.preventDefault();
      this.onMove(rule, Number(at(this.axis, along(this.axis, rule.threshold) + steps / 100).toPrecision(3)), true);
    });
    return { rule, field: h("label", {}, SIGNS[rule.comparison], field), input: field, grip };
  }

  /** counted: one histogram of Model.recount(). */
  update(counted, total) {
    const tallest = Math.max(1, ...counted.all);
    const step = WIDTH / counted.all.length;
    const path = (bars) => Array.from(bars, (n, i) => (n ? `M${(i * step + 0.5).toFixed(1)} ${FLOOR}V${(FLOOR - (n / tallest) * FLOOR).toFixed(1)}h${(step - 1).toFixed(1)}V${FLOOR}z` : "")).join("");
    this.bars.all.setAttribute("d", path(counted.all));
    this.bars.kept.setAttribute("d", path(counted.kept));
    // only this filter: drawn on top of what is kept, so that the two never hide each other
    this.bars.only.setAttribute("d", path(counted.only.map((n, i) => (n ? n + counted.kept[i] : 0))));
    let low = 0, high = WIDTH;
    for (const { rule, input, grip } of this.handles) {
      const x = along(this.axis, rule.threshold) * WIDTH;
      grip.setAttribute("transform", `translate(${x.toFixed(1)} 0)`);
      grip.setAttribute("aria-valuenow", rule.threshold);
      grip.setAttribute("aria-valuetext", `${SIGNS[rule.comparison]} ${short(rule.threshold)}`);
      grip.classList.toggle("moved", rule.threshold !== rule.saved);
      if (document.activeElement !== input) input.value = String(Number(rule.threshold.toPrecision(4)));
      input.style.width = `${input.value.length + 0.6}ch`;
      if (rule.comparison.startsWith(">")) low = Math.max(low, x);
      else high = Math.min(high, x);
    }
    this.inside.setAttribute("x", low);
    this.inside.setAttribute("width", Math.max(0, high - low));
    const unmeasured = this.axis.unmeasured ? ` · ${count(this.axis.unmeasured)} not measured` : "";
    this.said.textContent = `rejects ${percent(counted.rejects, total)} · only this filter ${percent(counted.onlyNumber, total)}${unmeasured}`;
  }
}

/** The flow of clips in pipeline order; red leaves. Steps that take nothing are named below, not drawn. */
export function retention(steps, total, scale) {
  const taking = steps.filter((step) => step.rejected > 0);
  const idle = steps.filter((step) => step.rejected === 0 && step.rule !== "unmeasured").map((step) => words(step.rule));
  const width = 900, bar = 8, gap = 14, top = 8, room = 150, line = 13;
  const unit = total ? room / total : 0;
  const stride = (width - 70) / Math.max(1, taking.length);
  const levels = stride < 92 ? 2 : 1; // names would touch: every second one stands lower
  const high = (n) => Math.max(n * unit, n > 0 ? 1.5 : 0);
  const marks = [], links = [], labels = [];
  const label = (x, y, kind, ...lines) => lines.forEach((text, i) => labels.push(s("text", { x, y: y + 4 + (i - (lines.length - 1) / 2) * line, class: kind }, text)));
  let left = total, lowest = top + room;
  marks.push(s("rect", { class: "kept", x: 0, y: top, width: bar, height: high(total), rx: 1.5 }));
  label(bar + 5, top + high(total) / 2, "in", "clips", count(total * scale));
  taking.forEach((step, i) => {
    const from = i * stride + bar, to = (i + 1) * stride, mid = (from + to) / 2;
    const keptHigh = high(step.left), outHigh = high(step.rejected), split = top + left * unit - step.rejected * unit;
    const out = top + keptHigh + gap;
    const band = (y0, h0, y1, h1, kind) => links.push(s("path", {
      class: kind, d: `M${from} ${y0}C${mid} ${y0} ${mid} ${y1} ${to} ${y1}V${y1 + h1}C${mid} ${y1 + h1} ${mid} ${y0 + h0} ${from} ${y0 + h0}z`,
    }));
    if (step.left) band(top, step.left * unit, top, keptHigh, "stays");
    band(split, step.rejected * unit, out, outHigh, "leaves");
    if (step.left) marks.push(s("rect", { class: "kept", x: to, y: top, width: bar, height: keptHigh, rx: 1.5 }));
    marks.push(s("rect", { class: "out", x: to, y: out, width: bar, height: outHigh, rx: 1.5 }));
    const isLast = i === taking.length - 1, said = count(step.left * scale);
    label(to + bar + 5, top + Math.max(keptHigh / 2, line / 2), "in", ...(isLast ? (keptHigh > 2 * line ? ["kept", said] : [`kept ${said}`]) : [said]));
    const below = out + outHigh + line + (i % levels) * 2.2 * line;
    const isCramped = i === 0 && levels > 1; // would start left of the picture
    label(isCramped ? 0 : to + bar, below + line / 2, isCramped ? "gone first" : "gone", `✕ ${words(step.rule)}`, count(step.rejected * scale));
    lowest = Math.max(lowest, below + 1.5 * line);
    left = step.left;
  });
  const drawn = s("svg", { viewBox: `0 0 ${width} ${lowest + 10}`, class: "flow", role: "img", "aria-label": taking.map((step) => `${step.rule} takes ${step.rejected}, ${step.left} left`).join("; ") }, ...links, ...marks, ...labels);
  return [drawn, idle.length ? h("p", { class: "note" }, `take nothing: ${idle.join(", ")}`) : null].filter(Boolean);
}

/** Of the clips the row's rule rejects, the share the column's rejects too. */
export function coRejection({ rules, cells }) {
  if (!rules.length) return h("p", { class: "note" }, "No rule rejects anything.");
  const heads = rules.map((rule) => h("th", { scope: "col", title: rule.rule }, h("span", {}, words(rule.rule))));
  const rows = rules.map((rule, i) => h("tr", {},
    h("th", { scope: "row", title: rule.rule }, words(rule.rule)),
    ...cells[i].map((both, j) => (i === j
      ? h("td", { class: "self", title: `${rule.rule} rejects ${both}` }, "–")
      : h("td", { vars: { "--share": `${Math.round((70 * both) / rule.number)}%` }, title: `${both} of ${rule.number}` }, Math.round((100 * both) / rule.number))))));
  return h("div", { class: "scroll" }, h("table", { class: "matrix" }, h("thead", {}, h("tr", {}, h("td"), ...heads)), h("tbody", {}, ...rows)));
}
