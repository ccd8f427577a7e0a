/** The page: what is looked at lives in the URL, so that a view can be shared; everything else follows from it. */

import { h, ask, count, duration, percent, short, SIGNS } from "./dom.js";
import { Model } from "./model.js";
import { FilterCard, coRejection, retention } from "./charts.js";
import { ClipGrid, showVideos } from "./clips.js";
import { Jobs } from "./jobs.js";

const FEW_FILTERS = 6;
const get = (id) => document.getElementById(id);
const state = { datasets: [], funnel: null, model: null, cards: [], exact: null, asked: 0 };

// --- the URL -----------------------------------------------------------------------------------------------------

function view() {
  const query = new URLSearchParams(location.search);
  const text = (name) => query.get(name) ?? "";
  const thresholds = [...query].filter(([name]) => name.includes(".")).map(([name, value]) => [name, Number(value)]);
  return { dataset: text("dataset"), snapshot: text("snapshot"), fate: text("fate"), rule: text("rule"), order: text("order"), all: text("all"), thresholds };
}

function remember(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) value === "" || value === null ? query.delete(name) : query.set(name, value);
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
}

function trouble(text) {
  get("trouble").textContent = text;
  get("trouble").hidden = !text;
}

// --- choosing what to look at --------------------------------------------------------------------------------------

async function load() {
  state.datasets = await ask("/v1/datasets");
  const any = state.datasets.length > 0;
  get("empty").hidden = any;
  get("data").hidden = !any;
  get("dataset-label").hidden = get("snapshot-label").hidden = !any;
  if (!any) return;
  const asked = view();
  const chosen = state.datasets.find((each) => each.name === asked.dataset) ?? state.datasets.reduce((a, b) => (a.newest.number > b.newest.number ? a : b));
  get("dataset").replaceChildren(...state.datasets.map((each) => h("option", {}, each.name)));
  get("dataset").value = chosen.name;
  const snapshots = await ask(`/v1/datasets/${encodeURIComponent(chosen.name)}/snapshots`);
  get("snapshot").replaceChildren(...snapshots.map((each) => h("option", { value: each.number }, `${each.number} · ${new Date(each.created_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`)));
  const number = snapshots.some((each) => String(each.number) === asked.snapshot) ? asked.snapshot : String(snapshots[0].number);
  get("snapshot").value = number;
  await open(chosen.name, number);
}

async function open(dataset, snapshot) {
  const from = `/v1/datasets/${encodeURIComponent(dataset)}`;
  const [funnel, histograms, scores] = await Promise.all(["funnel", "histograms", "scores"].map((name) => ask(`${from}/${name}?snapshot=${snapshot}`)));
  Object.assign(state, { dataset, snapshot, funnel, exact: null, model: new Model(scores, histograms.signals, funnel.steps) });
  for (const [rule, threshold] of view().thresholds) state.model.move(rule, threshold);
  state.cards = state.model.axes.filter((axis) => axis.rules.length).map((axis) => new FilterCard(axis, state.model.rules.filter((rule) => rule.axis === axis), moved));
  const rejects = (card) => Math.max(...card.rules.map((rule) => rule.rejects));
  const most = [...state.cards].sort((a, b) => rejects(b) - rejects(a)).slice(0, FEW_FILTERS);
  state.cards.forEach((card) => (card.minor = !most.includes(card)));
  get("filters").replaceChildren(...state.cards.map((card) => card.element));
  showFilters();
  draw();
  await Promise.all([showClips(), showVideos(get("videos"), dataset, snapshot, funnel)]);
}

function showFilters() {
  const all = view().all === "1" || state.cards.length <= FEW_FILTERS;
  for (const card of state.cards) card.element.hidden = !all && card.minor;
  get("all-filters").hidden = state.cards.length <= FEW_FILTERS;
  get("all-filters").textContent = all ? "only the filters that reject most" : `all ${state.cards.length} filters`;
}

const grid = new ClipGrid(get("clips"), get("clip"), {
  onView: (changes) => { remember(changes); showClips().catch((error) => trouble(error.message)); },
  onChange: (id) => state.model?.change(id) ?? "",
});

async function showClips() {
  const { fate, rule, order } = view();
  await grid.show(state.dataset, state.snapshot, { fate, rule, order }, state.funnel, state.model.axes.map((axis) => axis.signal));
}

// --- what if ---------------------------------------------------------------------------------------------------------

let frame = 0;

/** A threshold moved: recount at the next frame; when it is let go, keep it in the URL, and ask for exact counts of a sample. */
function moved(rule, threshold, done) {
  state.model.move(rule.rule, threshold);
  state.exact = null;
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
  if (!done) return;
  remember(Object.fromEntries(state.model.rules.map((each) => [each.rule, each.threshold === each.saved ? "" : String(each.threshold)])));
  if (state.model.scale > 1) countExactly().catch((error) => trouble(error.message));
}

async function countExactly() {
  const mine = ++state.asked;
  const query = new URLSearchParams(state.model.changed.map((rule) => [rule.rule, String(rule.threshold)]));
  const found = await ask(`/v1/datasets/${encodeURIComponent(state.dataset)}/whatif?snapshot=${state.snapshot}&${query}`);
  if (mine === state.asked) {
    state.exact = found.counts.kept;
    draw();
  }
}

function draw() {
  const { model, funnel } = state;
  const changed = model.changed.length > 0, sampled = model.scale > 1;
  const counted = model.recount();
  const kept = changed ? (state.exact ?? counted.kept * model.scale) : funnel.clips.kept;
  const estimated = changed && sampled && state.exact === null;
  const card = (name, value, note, kind = "") => h("div", { class: `card figure ${kind}` }, h("span", {}, name), h("b", {}, value), h("small", {}, note));
  const margin = 1.96 * Math.sqrt((kept / funnel.clips.in) * (1 - kept / funnel.clips.in) / Math.max(1, model.size));
  const difference = kept - funnel.clips.kept;
  get("figures").replaceChildren(
    card("Clips in", count(funnel.clips.in), `${count(funnel.clips.duplicate)} are copies`),
    card(changed ? "Kept at these thresholds" : "Kept", count(kept), changed ? (difference ? `${difference > 0 ? "+" : "−"}${count(Math.abs(difference))}${difference > 0 ? ", copies not sought among them" : " against the recipe"}` : "as many as the recipe") : "at the recipe's thresholds", "main"),
    card("Retention", percent(kept, funnel.clips.in), estimated ? `± ${(100 * margin).toFixed(2)} points (95 %)` : "exact"),
    card("Videos in", count(funnel.videos.in), `${count(funnel.videos.kept)} kept, ${count(funnel.videos.quarantined)} unreadable`),
    card("Footage", duration(funnel.video_seconds), `${duration(changed ? counted.seconds * model.scale : funnel.kept_seconds)} of clips kept`));
  get("badge").hidden = get("reset").hidden = !changed;
  get("badge").textContent = sampled && state.exact === null ? `what-if · estimated from ${count(model.size)} sampled clips` : "what-if · not saved";
  state.cards.forEach((each) => each.update(counted.histograms.find((histogram) => histogram.axis === each.axis), model.size));
  const about = sampled ? `estimated from ${count(model.size)} sampled clips` : "in pipeline order; red leaves the pipeline";
  const starved = counted.steps.filter((step) => step.nearest !== undefined && step.left < 0.01 * step.entered).map((step) => {
    const rule = model.rules.find((each) => each.rule === step.rule);
    return h("p", { class: "note" }, `${step.rule} lets almost nothing pass: of ${count(step.entered * model.scale)} clips the nearest has ${short(step.nearest)}, asked ${SIGNS[rule.comparison]} ${short(rule.threshold)}`);
  });
  get("retention").replaceChildren(h("div", { class: "bar" }, h("h2", {}, "Retention by stage"), h("span", { class: "hint" }, `${count(kept)} kept of ${count(funnel.clips.in)}`)), h("p", { class: "note" }, about), ...retention(counted.steps, model.size, model.scale), ...starved);
  get("corejection").replaceChildren(h("h2", {}, "Co-rejection"), h("p", { class: "note" }, "of the clips the row rejects, per cent the column rejects too"), coRejection(counted.together));
  grid.mark();
}

// --- start -------------------------------------------------------------------------------------------------------------

const guarded = (work) => () => work().catch((error) => trouble(error.message));
const fresh = () => remember(Object.fromEntries([...new URLSearchParams(location.search).keys()].filter((name) => name !== "all").map((name) => [name, ""])));

get("dataset").addEventListener("change", guarded(async () => {
  const dataset = get("dataset").value;
  fresh();
  remember({ dataset });
  await load();
}));
get("snapshot").addEventListener("change", guarded(async () => {
  remember({ dataset: get("dataset").value, snapshot: get("snapshot").value });
  await load();
}));
get("all-filters").addEventListener("click", () => {
  remember({ all: view().all === "1" ? "" : "1" });
  showFilters();
});
get("reset").addEventListener("click", () => {
  for (const rule of state.model.changed) moved({ rule: rule.rule }, rule.saved, true);
});
window.addEventListener("popstate", guarded(load));

guarded(async () => {
  const health = await ask("/v1/health");
  get("empty-command").textContent = `cinemill curate FOOTAGE --recipe demo --out ${health.data}`;
  const jobs = new Jobs(get("jobs"), health, {
    onTrouble: trouble,
    onDone: guarded(async () => { if (!view().snapshot && !state.model?.changed.length) await load(); }),
  });
  await Promise.all([jobs.refresh(), load()]);
})();
