// One model: what its callers meet, in figures and plots; its rollout; its versions; what stands around it.

import { h, icon, spoken } from "./view.js";
import { latency, throughput, weight } from "./plots.js";
import { isAbout, pathOf } from "./system.js";
import { gauge, phaseOf, rolloutPanel } from "./rollout.js";
import { versionCards } from "./versions.js";
import { count, figure, milliseconds, percent, spaced } from "./words.js";

/** What is wrong with this model, of all that is. */
export function troubles(model, verdict) {
  return verdict.reasons.filter((reason) => isAbout(model, reason));
}

/** `act` has what the page does when it is used: `toggle`, `point`, `command`, `close`. */
export function modelCard({ model, snapshot, id, open, alone, cursor, act }) {
  const wrong = troubles(model, snapshot.verdict);
  return h("article", { class: `card model ${open ? "" : "folded"}`, key: model.name, id, "aria-labelledby": `${id}-title` },
    h("header", {},
      h("h2", { id: `${id}-title` },
        wrong.length ? icon("warn", snapshot.verdict.state) : icon("ok", "fine"),
        alone ? model.name : h("a", { href: pathOf(model.name), onclick: act.follow }, model.name),
        spoken(wrong.length ? " (not well)" : " (well)")),
      h("span", { class: "stable" }, model.stable === null ? "no stable version" : `${model.stable} is stable`),
      model.rollout !== null && h("span", { class: `badge ${phaseOf(model.rollout)[1]}` },
        `rollout ${phaseOf(model.rollout)[0]}`),
      !alone && h("button", { type: "button", class: "fold", "aria-expanded": String(open), "aria-controls": `${id}-body`,
        onclick: () => act.toggle(model.name, !open) }, icon(open ? "up" : "down"), open ? "Less" : "More",
        spoken(` of ${model.name}`))),
    figures(model),
    h("div", { id: `${id}-body`, hidden: !open }, open && body({ model, snapshot, id, cursor, act })));
}

function body({ model, snapshot, id, cursor, act }) {
  const drawn = { model, now: model.series.t.at(-1) ?? snapshot.time, cursor, point: act.point };
  const canary = model.series.weight.some((value) => value > 0) || (model.rollout !== null && !model.rollout.over);
  const free = snapshot.admin.open;
  return [
    h("div", { class: `plots ${canary ? "three" : ""}`, key: "plots" },
      throughput({ ...drawn, id: `${id}-throughput` }), latency({ ...drawn, id: `${id}-latency` }),
      canary && weight({ ...drawn, id: `${id}-weight` })),
    model.rollout !== null && rolloutPanel({ rollout: model.rollout, id,
      command: free ? (name) => act.command(name, model.rollout) : null }),
    versionCards({ model, snapshot, id, close: free ? (version) => act.close(model, version) : null }),
    h("div", { class: "around", key: "around" }, admission(model), reasons(model), fallbacks(model), shadows(model)),
  ];
}

function figures(model) {
  const asked = model.rate - model.other;
  const share = (value) => (asked > 0 ? percent(value / asked) : "–");
  const tile = (name, value, { more = "", kind = "" } = {}) => h("div", { key: name, class: kind },
    h("dt", {}, kind && icon(kind === "bad" ? "bad" : "warn"), name), h("dd", {}, h("span", {}, value), more && h("small", {}, more)));
  const part = (name, value, kind) => tile(name, share(value), 
    { more: value > 0 ? `${figure(value)}/s` : "", kind: value > 0 ? kind : "" });
  return h("dl", { class: "tiles", "aria-label": `${model.name}, the last ten seconds` },
    tile("Requests", figure(model.rate), { more: "/s" }),
    tile("Answered", share(model.ok + model.degraded)), part("Degraded", model.degraded, "degraded"), part("Errors", model.errors, "bad"),
    part("Shed", model.shed, "degraded"),
    tile("p50", milliseconds(model.p50_ms)), tile("p99", milliseconds(model.p99_ms)));
}

function panel(name, ...content) {
  return h("section", { class: "panel", key: name }, h("h3", {}, name), content);
}

function admission({ admission: of }) {
  const share = of.limit ? of.inflight / of.limit : 0;
  return panel("Admission",
    gauge({ name: "Under way", share, said: `${count(of.inflight)} of at most ${count(of.limit)}`,
      kind: share >= 1 ? "bad" : share > 0.8 ? "degraded" : "calm" }),
    h("p", {}, of.waiting ? [icon("warn", "degraded"), `${count(of.waiting)} wait in the queue`] : "Nobody waits in the queue."));
}

function reasons(model) {
  const degraded = Object.entries(model.degraded_by_reason).filter(([, rate]) => rate > 0);
  const errors = Object.entries(model.errors_by_reason).filter(([, rate]) => rate > 0);
  if (degraded.length + errors.length === 0) return panel("Reasons", h("p", {}, "No degraded answers, no errors."));
  const asked = Math.max(model.rate - model.other, 1e-9);
  const bars = (named, kind, word) => named.sort(([, one], [, other]) => other - one).map(([code, rate]) =>
    gauge({ name: `${word}: ${spaced(code)}`, share: rate / asked, said: percent(rate / asked), kind }));
  return panel("Reasons", bars(degraded, "degraded", "degraded"), bars(errors, "bad", "error"));
}

function fallbacks({ fallbacks: chain }) {
  if (chain.length === 0) return panel("Fallbacks", h("p", {}, "None: nothing stands in for this model."));
  return panel("Fallbacks", h("ol", { class: "chain" }, chain.map((use, at) => h("li", { key: `${at}` },
    h("b", {}, use.name), h("small", {}, use.answered + use.unusable === 0 ? "not needed yet"
      : `answered ${count(use.answered)}, couldn't ${count(use.unusable)}`)))));
}

function shadows({ shadows: all }) {
  if (all.length === 0) return null;
  return panel("Shadows", h("ul", { class: "chain" }, all.map((use) => h("li", { key: use.name },
    h("b", {}, use.name), h("small", {}, `gets ${percent(use.share)} of the requests`),
    use.silent ? h("p", {}, icon("warn", "degraded"), "It answers nothing, so nothing is known of it.")
      : gauge({ name: "Answers agree", share: use.compared ? use.agreed / use.compared : 0, kind: "calm",
        said: use.compared ? `${percent(use.agreed / use.compared)} of ${count(use.compared)}` : "none compared yet" }),
    use.dropped > 0 && h("small", {}, `${count(use.dropped)} left out for want of time`)))));
}
