/** Start a curation job, watch it, stop it. */

import { h, ask, duration } from "./dom.js";

const OVER = ["succeeded", "failed", "cancelled"];
const KINDS = ["state", "progress", "started", "cancel"];

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Jobs {
  /** onDone(job) is called when a job ends while the page is open. */
  constructor(root, health, { onDone, onTrouble }) {
    this.onDone = onDone;
    this.onTrouble = onTrouble;
    this.streams = new Map();
    this.list = h("div", { class: "jobs" });
    root.replaceChildren(h("div", { class: "bar" }, h("h2", {}, "Jobs"), h("span", { class: "hint" }, `run by ${health.executor === "ray" ? "Ray Jobs" : "child processes"}`)), this.#form(health), this.list);
  }

  #form(health) {
    const sources = h("textarea", { rows: 2, required: true, spellcheck: "false", placeholder: `${health.roots[0] ?? ""}/footage` });
    const recipe = h("select", {}, ...Object.entries(health.recipes).map(([name, told]) => h("option", { value: name, title: told }, name)));
    const dataset = h("input", { placeholder: "the recipe's name", pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]{0,63}" });
    const limit = h("input", { type: "number", min: 1, placeholder: "all" });
    const button = h("button", { class: "primary" }, "Curate");
    let key = newKey(); // the same until a submit was answered: a second click is no second job
    const form = h("form", { class: "submit" },
      h("label", { class: "wide" }, "Footage: files, folders or lists, one a line", sources),
      h("label", {}, "Recipe", recipe), h("label", {}, "Data set", dataset), h("label", {}, "At most videos", limit), button,
      h("p", { class: "note wide" }, `May read: ${health.roots.join(", ")}`));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        const request = { kind: "curate", sources: sources.value.split("\n").map((line) => line.trim()).filter(Boolean), recipe: recipe.value };
        if (dataset.value) request.dataset = dataset.value;
        if (limit.value) request.limit = Number(limit.value);
        await ask("/v1/jobs", { method: "POST", headers: { "content-type": "application/json", "idempotency-key": key }, body: JSON.stringify(request) });
        this.onTrouble("");
        await this.refresh();
      } catch (error) {
        this.onTrouble(error.message);
      } finally {
        key = newKey();
        button.disabled = false;
      }
    });
    return form;
  }

  async refresh() {
    const jobs = await ask("/v1/jobs?limit=20");
    this.list.replaceChildren(...jobs.map((job) => this.#row(job)), jobs.length ? "" : h("p", { class: "note" }, "No job was started from here yet."));
    for (const job of jobs) if (!OVER.includes(job.state) && !this.streams.has(job.id)) this.#follow(job.id);
  }

  #follow(id) {
    const stream = new EventSource(`/v1/jobs/${id}/events`);
    this.streams.set(id, stream);
    let asking = false, again = false;
    const look = async () => {
      again = true;
      if (asking) return;
      asking = true;
      while (again) {
        again = false;
        const job = await ask(`/v1/jobs/${id}`).catch(() => null);
        if (!job) continue;
        document.getElementById(`job-${id}`)?.replaceWith(this.#row(job));
        if (OVER.includes(job.state) && this.streams.delete(id)) {
          stream.close();
          clearInterval(clock);
          this.onDone(job);
        }
      }
      asking = false;
    };
    const clock = setInterval(look, 2000); // time passes without events too
    for (const kind of KINDS) stream.addEventListener(kind, look);
  }

  #row(job) {
    const { stage, done, total } = job.progress;
    const since = Date.parse(job.finished_at ?? new Date().toISOString()) - Date.parse(job.started_at ?? job.created_at);
    const over = OVER.includes(job.state);
    const what = stage && !over ? `${stage} ${done} of ${total}` : job.snapshot ? `snapshot ${job.snapshot}` : "";
    return h("article", { class: "job", id: `job-${job.id}` },
      h("span", { class: `pill ${job.state}` }, job.cancel_requested && !over ? "stopping" : job.state),
      h("span", { class: "asked" }, job.request.dataset ?? job.request.recipe.split("/").pop(), h("small", { title: job.request.sources.join("\n") }, job.request.sources.map((source) => source.split("/").pop()).join(", "))),
      over ? h("span") : h("progress", { max: total || 1, value: total ? done : undefined, "aria-label": "progress" }),
      h("span", { class: "note" }, [what, job.started_at ? duration(since / 1000) : ""].filter(Boolean).join(" · ")),
      over || job.cancel_requested ? h("span") : h("button", { class: "quiet", onclick: () => this.#cancel(job.id) }, "stop"),
      job.error ? h("p", { class: job.state === "failed" ? "error" : "note" }, job.error) : "");
  }

  async #cancel(id) {
    await ask(`/v1/jobs/${id}/cancel`, { method: "POST" }).catch((error) => this.onTrouble(error.message));
    await this.refresh();
  }
}
