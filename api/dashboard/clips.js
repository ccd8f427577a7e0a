/** The grid of clips that play while one looks at them, the videos, and one clip in full. */

import { h, ask, count, duration, short, words, SIGNS } from "./dom.js";

const HOVER_MILLISECONDS = 150;
const PAGE = 24;

/** A numeric reason in one line: border share 0.16, not ≤ 0.06. */
function told(row) {
  if (row.fate === "kept") return row.caption ?? "";
  if (row.value === null || row.threshold === null) return row.reason ?? "";
  return `${words(row.rule)} ${short(row.value)}, not ${SIGNS[row.comparison]} ${short(row.threshold)}`;
}

function fileName(uri) {
  return decodeURIComponent(uri.replace(/%(?![0-9a-f]{2})/gi, "%25")).split("/").pop();
}

/** What is shown is chosen by `view` {fate, rule, order}; `where` is the query that names the snapshot. */
export class ClipGrid {
  constructor(root, dialog, { onView, onChange }) {
    this.dialog = dialog;
    this.onChange = onChange;
    this.fates = h("div", { class: "tabs", role: "group", "aria-label": "Fate" });
    this.rule = h("select", { "aria-label": "Rule", onchange: () => onView({ rule: this.rule.value }) });
    this.order = h("select", { "aria-label": "Order", onchange: () => onView({ order: this.order.value }) });
    this.grid = h("div", { class: "grid" });
    this.none = h("p", { class: "note none" });
    this.more = h("button", { class: "quiet", onclick: () => this.#page() }, "more clips");
    this.note = h("p", { class: "note" });
    this.onView = onView;
    root.replaceChildren(
      h("div", { class: "bar" }, h("h2", {}, "Clips"), this.fates, this.rule, this.order, h("span", { class: "hint" }, "hover or focus to play")),
      this.note, this.grid, this.none, h("p", { class: "more" }, this.more));
    dialog.addEventListener("close", () => dialog.replaceChildren());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  async show(dataset, snapshot, view, funnel, signals) {
    this.base = `/v1/datasets/${encodeURIComponent(dataset)}/rows?table=clips&snapshot=${snapshot}&limit=${PAGE}&count=true`;
    this.where = `?dataset=${encodeURIComponent(dataset)}&snapshot=${snapshot}`;
    this.view = view;
    const fates = ["", ...["kept", "rejected", "duplicate"].filter((fate) => funnel.clips[fate] || fate === "kept")];
    this.fates.replaceChildren(...fates.map((fate) => h("button", { "aria-pressed": String(fate === view.fate), onclick: () => this.onView({ fate, rule: "" }) },
      fate || "all", h("small", {}, count(fate ? funnel.clips[fate] : funnel.clips.in)))));
    const taking = funnel.steps.filter((step) => step.rejected);
    this.rule.replaceChildren(h("option", { value: "" }, "any reason"), ...taking.map((step) => h("option", { value: step.rule }, `${step.rule} (${count(step.rejected)})`)));
    this.rule.hidden = view.fate === "kept";
    this.rule.value = view.rule;
    this.order.replaceChildren(h("option", { value: "" }, "by video"),
      ...signals.flatMap((name) => [h("option", { value: name }, `lowest ${words(name)} first`), h("option", { value: `-${name}` }, `highest ${words(name)} first`)]));
    this.order.value = view.order;
    this.cards = new Map();
    this.grid.replaceChildren();
    this.next = null;
    await this.#page();
  }

  async #page() {
    const { fate, rule, order } = this.view;
    const asked = new URLSearchParams(Object.entries({ fate, rule, order, after: this.next ?? "" }).filter(([, value]) => value));
    const mine = this.base + asked;
    this.asking = mine;
    const page = await ask(`${this.base}&${asked}`);
    if (this.asking !== mine) return; // another view was chosen meanwhile
    this.next = page.next;
    this.more.hidden = !page.next;
    this.grid.append(...page.rows.map((row) => this.#card(row)));
    this.none.textContent = this.cards.size ? "" : "No clip matches this choice.";
    this.note.textContent = `${count(page.matching)} ${page.matching === 1 ? "clip" : "clips"}${order ? ` · ${this.order.selectedOptions[0]?.text ?? ""}` : ""}`;
    this.mark();
  }

  #card(row) {
    const number = this.view.order ? row[this.view.order.replace(/^-/, "")] : null;
    const facts = [number === null || number === undefined ? "" : `${words(this.view.order.replace(/^-/, ""))} ${short(number)}`, duration(row.duration_seconds)];
    const screen = h("span", { class: "screen" },
      h("img", { src: `/v1/clips/${row.clip_id}/poster.webp${this.where}`, loading: "lazy", alt: "", onerror: (event) => event.target.remove() }),
      h("span", { class: "facts" }, facts.filter(Boolean).join(" · ")));
    const badge = h("span", { class: "change", hidden: true });
    const card = h("button", { class: `clip ${row.fate}`, "aria-label": `Clip of ${fileName(row.uri)}, ${row.fate}. ${told(row)}`, onclick: () => this.#open(row.clip_id) },
      screen, badge, h("span", { class: "name" }, h("i", { class: `dot ${row.fate}` }), fileName(row.uri)), h("span", { class: "told" }, told(row)));
    let waiting = 0;
    const play = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (screen.querySelector("video")) return;
        const video = h("video", { src: `/v1/clips/${row.clip_id}/preview.mp4${this.where}`, loop: true, playsinline: true, preload: "auto", tabindex: -1 });
        video.muted = true;
        video.addEventListener("error", () => { video.remove(); screen.classList.remove("playing"); });
        video.addEventListener("playing", () => screen.classList.add("playing"));
        screen.append(video);
        video.play().catch(() => {}); // taken away before it began
      }, HOVER_MILLISECONDS);
    };
    const stop = () => {
      clearTimeout(waiting);
      screen.classList.remove("playing");
      const video = screen.querySelector("video");
      if (video) {
        video.removeAttribute("src"); // ends the download
        video.load();
        video.remove();
      }
    };
    card.addEventListener("pointerenter", play);
    card.addEventListener("pointerleave", stop);
    card.addEventListener("focus", play);
    card.addEventListener("blur", stop);
    this.cards.set(row.clip_id, { card, badge });
    return card;
  }

  /** Say on each card what the thresholds at hand would change. */
  mark() {
    for (const [id, { card, badge }] of this.cards ?? []) {
      const change = this.onChange(id);
      badge.textContent = change ? `would ${change.slice(0, -1)}` : "";
      badge.hidden = !change;
      card.classList.toggle("enters", change === "enters");
      card.classList.toggle("leaves", change === "leaves");
    }
  }

  async #open(id) {
    const found = await ask(`/v1/clips/${id}${this.where}`);
    const asked = new Set(found.rules.map((rule) => rule.signal));
    const numbers = Object.entries(found.clip).filter(([name, value]) => typeof value === "number" && !asked.has(name) && !/_pts$|^time_base|^crop_|^stream|^value$|^threshold$/.test(name));
    const verdict = (rule) => h("tr", { class: rule.passed === false ? "failed" : "" },
      h("td", {}, { true: "✓", false: "✕", null: "?" }[rule.passed]), h("td", {}, rule.rule), h("td", {}, words(rule.signal)),
      h("td", {}, rule.value === null ? h("span", { class: "why" }, found.unmeasured[rule.signal] ?? "not measured") : `${short(rule.value)}${rule.unit && !rule.unit.includes("..") ? ` ${rule.unit}` : ""}`), h("td", {}, `${SIGNS[rule.comparison]} ${short(rule.threshold)}`));
    const video = h("video", { src: found.preview, poster: found.poster, controls: true, loop: true, playsinline: true });
    video.muted = true;
    this.dialog.replaceChildren(
      h("form", { method: "dialog" }, h("h2", {}, fileName(found.clip.uri)), h("button", { class: "quiet", "aria-label": "Close" }, "✕")),
      video,
      found.clip.caption ? h("blockquote", {}, found.clip.caption) : "",
      ...found.sentences.map((sentence) => h("p", {}, sentence)),
      h("table", { class: "rules" }, h("tbody", {}, ...found.rules.map(verdict))),
      h("dl", {}, ...Object.entries(found.unmeasured).filter(([name]) => !asked.has(name) && !name.startsWith("crop_")).map(([name, why]) => h("div", { title: why }, h("dt", {}, words(name)), h("dd", { class: "why" }, why))),
        ...numbers.map(([name, value]) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, short(value))))),
      h("p", { class: "note mono" }, found.clip.clip_id));
    this.dialog.showModal();
    video.play().catch(() => {});
  }
}

/** Every video with its fate and its reason, a page at a time. */
export async function showVideos(root, dataset, snapshot, funnel) {
  const body = h("tbody");
  const more = h("button", { class: "quiet" }, "more videos");
  const said = ["kept", "rejected", "duplicate", "quarantined"].filter((fate) => funnel.videos[fate]).map((fate) => `${count(funnel.videos[fate])} ${fate}`);
  root.replaceChildren(
    h("div", { class: "bar" }, h("h2", {}, "Videos"), h("span", { class: "hint" }, said.join(" · "))),
    h("div", { class: "scroll" }, h("table", { class: "list" },
      h("thead", {}, h("tr", {}, ...["Video", "Fate", "Why", "Size", "Length"].map((name) => h("th", { scope: "col" }, name)))), body)),
    h("p", { class: "more" }, more));
  let next = "";
  async function page() {
    const found = await ask(`/v1/datasets/${encodeURIComponent(dataset)}/rows?table=videos&snapshot=${snapshot}&limit=50${next && `&after=${next}`}`);
    next = found.next ?? "";
    more.hidden = !next;
    body.append(...found.rows.map((row) => h("tr", {},
      h("td", { title: row.uri }, fileName(row.uri)),
      h("td", {}, h("i", { class: `dot ${row.fate}` }), row.fate),
      h("td", { class: "why" }, row.reason ?? "", row.damaged ? h("small", {}, row.reason ? " · damaged" : "damaged, judged on what decodes") : ""),
      h("td", {}, row.width ? `${row.width} × ${row.height}` : "–"),
      h("td", {}, row.duration_seconds === null ? "–" : duration(row.duration_seconds)))));
  }
  more.addEventListener("click", page);
  await page();
}
