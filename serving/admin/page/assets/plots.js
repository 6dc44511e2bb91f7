// Plots of the last five minutes: a description of an SVG for a series. What a plot shows is also said in words.

import { h, spoken } from "./view.js";
import { clock, figure, milliseconds, percent } from "./words.js";

export const SPAN_S = 300;
const HEIGHT = 128;
const LEFT = 50;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 20;
const GAP_S = 3;

const PARTS = [
  { name: "ok", label: "ok" },
  { name: "degraded", label: "degraded" },
  { name: "shed", label: "shed" },
  { name: "errors", label: "errors" },
];

/** `cursor`: a second that is pointed at, or null; `point` is called with another one. `id` must be the page's only one. */
export function throughput({ id, model, now, cursor, point }) {
  const series = model.series;
  const frame = new Frame(id, now);
  const totals = series.t.map((_, at) => PARTS.reduce((sum, part) => sum + series[part.name][at], 0));
  const top = niceTop(Math.max(...totals, 0));
  const y = (value) => frame.bottom - (value / top) * frame.tall;
  const below = series.t.map(() => 0);
  const areas = PARTS.map((part) => {
    const lower = [...below];
    series[part.name].forEach((value, at) => { below[at] += value; });
    if (!series[part.name].some((value) => value > 0)) return null;
    return h("path", { key: part.name, class: `area ${part.name}`, d: frame.area(series.t, lower, [...below], y) });
  });
  const at = moment(series.t, cursor);
  const legend = PARTS.map((part) => entry(part.name, part.label, at < 0 ? "–" : figure(series[part.name][at])));
  const said = `${PARTS.map((part) => `${part.label} ${summary(series[part.name], figure)}`).join("; ")}.`;
  return plot({ frame, title: "Throughput", unit: "requests/s", legend, said, cursor, point, model, series,
    ticks: [0, top / 2, top].map((value) => [y(value), figure(value)]), marks: areas });
}

export function latency({ id, model, now, cursor, point }) {
  const series = model.series;
  const frame = new Frame(id, now);
  const known = [...series.p50_ms, ...series.p99_ms].filter((value) => value !== null && value > 0);
  const low = Math.floor(Math.log10(Math.min(...known, 1e9)));
  const [least, most] = known.length ? [low, Math.max(Math.ceil(Math.log10(Math.max(...known))), low + 1)] : [0, 2];
  const y = (value) => frame.bottom - ((Math.log10(Math.max(value, 1e-9)) - least) / (most - least)) * frame.tall;
  const powers = Array.from({ length: most - least + 1 }, (_, power) => 10 ** (least + power));
  const lines = ["p99_ms", "p50_ms"].map((name) =>
    h("path", { key: name, class: `line ${name}`, d: frame.line(series.t, series[name], y) }));
  const at = moment(series.t, cursor);
  const legend = ["p50_ms", "p99_ms"].map((name) =>
    entry(name, name.slice(0, 3), at < 0 ? "–" : milliseconds(series[name][at])));
  const said = `median ${summary(series.p50_ms, milliseconds)}; 99th percentile ${summary(series.p99_ms, milliseconds)}.`;
  return plot({ frame, title: "Latency", unit: "logarithmic", legend, said, cursor, point, model, series,
    ticks: powers.map((value) => [y(value), value < 1000 ? milliseconds(value) : `${value / 1000} s`]), marks: lines });
}

export function weight({ id, model, now, cursor, point }) {
  const series = model.series;
  const frame = new Frame(id, now);
  const y = (value) => frame.bottom - value * frame.tall;
  const at = moment(series.t, cursor);
  const legend = [entry("weight", "share", at < 0 ? "–" : percent(series.weight[at]))];
  const area = frame.steps(series.t, series.weight, y);
  return plot({ frame, title: "Canary", unit: "share of the requests", legend, cursor, point, model, series,
    said: `share of the canary ${summary(series.weight, percent)}.`,
    ticks: [0, 0.5, 1].map((value) => [y(value), percent(value)]),
    marks: [h("path", { class: "area weight", d: area })] });
}

/** Where things are: the width is what the plot had when it was drawn last. */
class Frame {
  constructor(id, now) {
    this.id = id;
    this.now = now;
    this.width = Math.max(document.getElementById(id)?.clientWidth ?? 0, 200);
    this.bottom = HEIGHT - BOTTOM;
    this.tall = this.bottom - TOP;
  }

  x(second) {
    const wide = this.width - LEFT - RIGHT;
    return LEFT + wide * (1 - Math.min(Math.max((this.now - second) / SPAN_S, 0), 1));
  }

  second(x) {
    const wide = this.width - LEFT - RIGHT;
    return Math.round(this.now - SPAN_S * (1 - Math.min(Math.max((x - LEFT) / wide, 0), 1)));
  }

  /** Runs of seconds without a gap, as lists of indices. */
  runs(seconds, holds = () => true) {
    const runs = [];
    seconds.forEach((second, at) => {
      if (second < this.now - SPAN_S || !holds(at)) return;
      const last = runs.at(-1);
      const before = last?.at(-1);
      if (before !== undefined && before >= at - GAP_S && second - seconds[before] <= GAP_S) last.push(at);
      else runs.push([at]);
    });
    return runs;
  }

  line(seconds, values, y) {
    const runs = this.runs(seconds, (at) => values[at] !== null);
    return runs.map((run) => polyline(run.map((at) => [this.x(seconds[at]), y(values[at])]))).join("");
  }

  /** Only where there is something: a line along nothing would look like something. */
  area(seconds, lower, upper, y) {
    const some = (at) => [at - 1, at, at + 1].some((near) => upper[near] > lower[near]);
    return this.runs(seconds, some).map((run) => {
      const above = run.map((at) => [this.x(seconds[at]), y(upper[at])]);
      const beneath = run.map((at) => [this.x(seconds[at]), y(lower[at])]).reverse();
      return `${polyline([...above, ...beneath])}Z`;
    }).join("");
  }

  steps(seconds, values, y) {
    return this.runs(seconds).map((run) => {
      const corners = run.flatMap((at, number) => {
        const corner = [this.x(seconds[at]), y(values[at])];
        return number > 0 ? [[corner[0], y(values[run[number - 1]])], corner] : [corner];
      });
      const ends = [[this.x(seconds[run.at(-1)]), this.bottom], [this.x(seconds[run[0]]), this.bottom]];
      return `${polyline([...corners, ...ends])}Z`;
    }).join("");
  }
}

function plot({ frame, title, unit, ticks, marks, legend, said, cursor, point, model, series }) {
  const heading = `${frame.id}-title`;
  const right = frame.width - RIGHT;
  const grid = ticks.map(([y, text]) => h("g", { class: "tick" },
    h("line", { x1: LEFT, x2: right, y1: y, y2: y }),
    h("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, text)));
  const minutes = [5, 4, 3, 2, 1, 0].map((minute) => h("text", {
    class: "when", x: frame.x(frame.now - minute * 60), y: HEIGHT - 5,
    "text-anchor": minute === 5 ? "start" : minute === 0 ? "end" : "middle",
  }, minute === 0 ? "now" : `−${minute} min`));
  const pointed = cursor !== null && h("line",
    { class: "cursor", x1: frame.x(cursor), x2: frame.x(cursor), y1: TOP, y2: frame.bottom });
  return h("figure", { class: "plot", key: frame.id, "aria-labelledby": heading },
    h("figcaption", {},
      h("strong", { id: heading }, title, spoken(` of ${model.name} over the last five minutes`)),
      h("span", { class: "unit" }, cursor === null ? unit : `at ${clock(cursor)}`),
      h("span", { class: "legend" }, legend)),
    h("div", { id: frame.id, class: "canvas" },
      h("svg", {
        class: "graph", width: frame.width, height: HEIGHT, viewBox: `0 0 ${frame.width} ${HEIGHT}`,
        role: "img", tabindex: 0, "aria-label": `${title}, ${unit}: ${said} Arrow keys read single seconds.`,
        onpointermove: (event) => point(frame.second(event.offsetX)),
        onpointerleave: () => point(null),
        onblur: () => point(null),
        onkeydown: (event) => pressed(event, { cursor, point, series, frame }),
      }, grid, frame.width > 400 ? minutes : minutes.filter((_, at) => at % 5 === 0 || at === 3), marks, pointed)));
}

function pressed(event, { cursor, point, series, frame }) {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
  if (event.key === "Escape") point(null);
  if (by === undefined) return;
  event.preventDefault();
  const last = series.t.at(-1) ?? Math.floor(frame.now);
  point(Math.min(Math.max((cursor ?? last) + by, last - SPAN_S), last));
}

function entry(kind, label, value) {
  return h("span", { class: "entry", key: kind },
    h("svg", { class: `swatch ${kind}`, viewBox: "0 0 14 10", "aria-hidden": "true" },
      kind.startsWith("p") ? h("path", { class: `line ${kind}`, d: "M0 5H14" })
        : h("rect", { class: `area ${kind}`, x: 0.5, y: 0.5, width: 13, height: 9 })),
    label, " ", h("b", {}, value));
}

/** The index of the second that is pointed at, of the last one if none is, -1 if nothing is known of it. */
function moment(seconds, cursor) {
  return cursor === null ? seconds.length - 1 : seconds.indexOf(cursor);
}

function summary(values, say) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return "unknown";
  if (Math.max(...known) === 0) return "none";
  return `${say(known.at(-1))} now, from ${say(Math.min(...known))} to ${say(Math.max(...known))}`;
}

function polyline(points) {
  return points.map(([x, y], at) => `${at === 0 ? "M" : "L"}${tenth(x)} ${tenth(y)}`).join("");
}

const tenth = (value) => Math.round(value * 10) / 10;

function niceTop(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 6, 8, 10].find((times) => times * unit >= most) * unit;
}
