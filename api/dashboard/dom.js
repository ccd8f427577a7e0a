/** Elements, numbers in words, and the way to the service. Data become text nodes, never markup. */

/** @param {string} tag @param {Record<string, any>} [props] @param {...(Node|string|number|null|undefined|false)} children */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child || child === 0).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** 827800 -> "827.8 k". */
export function count(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return Math.round(value).toLocaleString("en");
}

/** A share as a percentage that never rounds to a lie of 0 or 100. */
export function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  return `${share === 0 || share === 100 ? share : share < 0.1 ? share.toFixed(2) : share.toFixed(1)} %`;
}

/** Four digits are enough to look at. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1000 ? String(Math.round(value)) : size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export function duration(seconds) {
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(seconds >= 36000 ? 0 : 1)} h`;
  return seconds >= 60 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${seconds.toFixed(1)} s`;
}

/** border_share -> "Border share"; visual.too_tall -> "too tall". */
export function words(name) {
  return name.slice(name.indexOf(".") + 1).replace(/^duration_seconds$/, "length").replace(/^shot_seconds$/, "shot_length").replace(/_seconds$/, "").replaceAll("_", " ");
}

export function title(name) {
  const said = words(name);
  return said.charAt(0).toUpperCase() + said.slice(1);
}

export const SIGNS = { ">=": "≥", "<=": "≤", ">": ">", "<": "<" };

/** JSON of the service; a problem becomes an Error that says it. */
export async function ask(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response.json();
  if (response.status === 401) location.assign("/login");
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail || `${path} answered ${response.status}`), { status: response.status });
}
