/** Recounts what would be kept while a threshold is dragged: one pass over the scores, nothing asked of the service. */

const COMPARE = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };

/** Where a value lies on a histogram's axis, 0 to 1, and back. */
export function along(axis, value) {
  const share = axis.scale === "log"
    ? Math.log10(Math.max(value, axis.low) / axis.low) / Math.log10(axis.high / axis.low)
    : (value - axis.low) / (axis.high - axis.low);
  return Math.min(1, Math.max(0, share));
}

export function at(axis, share) {
  return axis.scale === "log" ? axis.low * (axis.high / axis.low) ** share : axis.low + share * (axis.high - axis.low);
}

export class Model {
  /** scores: columns of /scores. axes: signals of /histograms. steps: of /funnel. */
  constructor(scores, axes, steps) {
    this.scores = scores;
    this.size = scores.clip_id.length;
    this.scale = this.size ? scores.clips / this.size : 1; // above 1: a sample stands for all
    this.place = new Map(scores.clip_id.map((id, i) => [id, i]));
    this.axes = axes;
    const order = new Map(steps.map((step, i) => [step.rule, i]));
    this.rules = axes.flatMap((axis) => axis.rules.map((rule) => ({ ...rule, axis, values: Float64Array.from(scores.signals[axis.signal], (v) => v ?? NaN) })))
      .sort((a, b) => order.get(a.rule) - order.get(b.rule));
    this.rules.forEach((rule, place) => Object.assign(rule, { place, saved: rule.threshold, fails: new Uint8Array(this.size), number: 0 }));
    const own = new Set(this.rules.map((rule) => rule.rule));
    this.later = steps.map((step) => step.rule).filter((name) => !own.has(name)); // the content stage: no threshold here changes it
    this.aside = Uint8Array.from(scores.rule, (rule) => 1 + this.later.indexOf(rule)); // 0: not set aside
    this.unmeasured = Uint8Array.from(scores.clip_id, (_, i) => (this.rules.some((rule) => Number.isNaN(rule.values[i])) ? 1 : 0));
    this.failed = new Uint16Array(this.size); // how many rules each clip fails
    this.both = this.rules.map(() => new Float64Array(this.rules.length));
    this.bins = this.size < 200 ? 32 : 64;
    for (const axis of axes) {
      axis.failed = new Uint8Array(this.size);
      axis.bin = Int16Array.from(scores.signals[axis.signal], (v) => (v === null ? -1 : Math.min(this.bins - 1, Math.floor(along(axis, v) * this.bins))));
    }
    for (const rule of this.rules) this.#refail(rule);
  }

  get changed() {
    return this.rules.filter((rule) => rule.threshold !== rule.saved);
  }

  move(name, threshold) {
    const rule = this.rules.find((each) => each.rule === name);
    if (rule && Number.isFinite(threshold)) {
      rule.threshold = threshold;
      this.#refail(rule);
    }
  }

  /** Everything that follows from one rule alone. A value that is not a number passes: unmeasured is not failed. */
  #refail(rule) {
    const passes = COMPARE[rule.comparison], { values, fails, threshold } = rule, { failed } = this, here = rule.axis.failed;
    rule.number = 0;
    for (let i = 0; i < this.size; i++) {
      const now = Number.isNaN(values[i]) || passes(values[i], threshold) ? 0 : 1, change = now - fails[i];
      fails[i] = now;
      failed[i] += change;
      here[i] += change;
      rule.number += now;
    }
    for (const other of this.rules) {
      const theirs = other.fails;
      let both = 0;
      for (let i = 0; i < this.size; i++) both += fails[i] & theirs[i];
      this.both[rule.place][other.place] = this.both[other.place][rule.place] = both;
    }
  }

  #isKept(i) {
    return !this.failed[i] && !this.aside[i] && (this.scores.kept[i] || !this.unmeasured[i]);
  }

  /** Whether a clip's fate would change: "enters", "leaves" or nothing. */
  change(id) {
    const i = this.place.get(id);
    if (i === undefined) return "";
    const kept = this.#isKept(i);
    return kept === this.scores.kept[i] ? "" : kept ? "enters" : "leaves";
  }

  /** Everything the page draws, in clips of the scores at hand; `scale` makes them clips of the data set. */
  recount() {
    const names = [...this.rules.map((rule) => rule.rule), ...this.later, "unmeasured"];
    const first = new Uint8Array(this.size).fill(255), rejected = new Float64Array(names.length), nearest = [];
    for (let place = this.rules.length - 1; place >= 0; place--) { // from the last rule, so that the first one stays
      const { fails } = this.rules[place];
      for (let i = 0; i < this.size; i++) if (fails[i]) first[i] = place;
    }
    const kept = new Uint8Array(this.size);
    let number = 0, seconds = 0;
    for (let i = 0; i < this.size; i++) {
      if (this.#isKept(i)) {
        kept[i] = 1;
        number++;
        seconds += this.scores.duration_seconds[i] ?? 0;
        continue;
      }
      const place = this.failed[i] ? first[i] : this.aside[i] ? this.rules.length + this.aside[i] - 1 : names.length - 1;
      rejected[place]++;
      if (place < this.rules.length) { // of the clips a rule is the first to reject, the value that came closest
        const { comparison, values } = this.rules[place];
        const isCloser = nearest[place] === undefined || (comparison[0] === ">" ? values[i] > nearest[place] : values[i] < nearest[place]);
        if (isCloser) nearest[place] = values[i];
      }
    }
    let left = this.size;
    const steps = names.map((rule, place) => ({ rule, entered: left, rejected: rejected[place], left: (left -= rejected[place]), nearest: nearest[place] }));
    return { kept: number, seconds, steps, histograms: this.axes.map((axis) => this.#histogram(axis, kept)), together: this.#together() };
  }

  #histogram(axis, kept) {
    const [all, inside, only] = [0, 1, 2].map(() => new Float64Array(this.bins));
    const { failed, aside } = this, here = axis.failed, bin = axis.bin;
    let rejects = 0, onlyNumber = 0;
    for (let i = 0; i < this.size; i++) {
      if (bin[i] < 0) continue;
      all[bin[i]]++;
      if (kept[i]) inside[bin[i]]++;
      else if (here[i]) {
        rejects++;
        if (here[i] === failed[i] && !aside[i]) {
          only[bin[i]]++;
          onlyNumber++;
        }
      }
    }
    return { axis, all, kept: inside, only, rejects, onlyNumber };
  }

  /** Of the clips the row's rule rejects, how many the column's rejects too. */
  #together() {
    const rules = this.rules.filter((rule) => rule.number > 0);
    return { rules, cells: rules.map((row) => rules.map((column) => this.both[row.place][column.place])) };
  }
}
