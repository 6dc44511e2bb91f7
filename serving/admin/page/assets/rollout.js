// A rollout: where it stands on its way, what speaks against the canary, and what a person may do now.

import { h, icon, spoken } from "./view.js";
import { clock, count, figure, lasting, many, percent } from "./words.js";

const PROMOTED = ["Promoting", "Baking", "Succeeded"];
const WENT_BACK = ["RollingBack", "RolledBack", "Aborted"];
const PHASES = {
  Pending: ["waiting to begin", ""], Starting: ["the canary starts", ""], Progressing: ["in progress", "busy"],
  Paused: ["paused", "degraded"], Promoting: ["being promoted", "busy"], Baking: ["baking", "busy"],
  Succeeded: ["succeeded", "fine"], RollingBack: ["rolling back", "bad"], RolledBack: ["rolled back", "bad"],
  Aborted: ["aborted", "degraded"],
};
const MARKS = {
  done: ["ok", "done"], now: ["now", "now"], held: ["pause", "on hold"], ended: ["bad", "ended here"],
  "left out": ["skip", "left out"], "to do": ["todo", "to do"],
};
const FOUND = {
  good: ["ok", "fine", "well"], bad: ["bad", "bad", "against it"], no_data: ["todo", "", "no figures"],
  error: ["warn", "degraded", "can't be judged"],
};
export const COMMANDS = {
  pause: ["Pause", "pause"], resume: ["Resume", "now"], promote: ["Promote", "up"], abort: ["Abort", "off"],
  rollback: ["Roll back", "back"],
};

export const phaseOf = (rollout) => PHASES[rollout.phase] ?? [String(rollout.phase), ""];

/** `command` is called with the name of what a person wants; null if nobody may change anything here. */
export function rolloutPanel({ rollout, id, command }) {
  const [phase, kind] = phaseOf(rollout);
  const until = rollout.over ? rollout.since : rollout.at;
  const against = rollout.findings.filter((finding) => finding.kind === "bad");
  return h("section", { class: `panel journey ${kind}`, key: "rollout", "aria-labelledby": `${id}-rollout` },
    h("header", {},
      h("h3", { id: `${id}-rollout` }, "Rollout ", h("span", { class: "version" }, rollout.prior || "–"), " → ",
        h("span", { class: "version" }, rollout.version)),
      h("span", { class: `badge ${kind}` }, kind && icon({ fine: "ok", bad: "bad", degraded: "pause", busy: "now" }[kind]),
        phase),
      h("small", {}, `${rollout.rollout}, started by ${rollout.started_by} at ${clock(rollout.started_at)}, `,
        `${rollout.over ? "took" : "for"} ${lasting(until - rollout.started_at)}`)),
    h("ol", { class: "way", "aria-label": "Steps" }, way(rollout).map(([state, text], at) => {
      const [name, word] = MARKS[state];
      const here = state === "now" || state === "held";
      return h("li", { key: `${at}`, class: state.replace(" ", "-"), "aria-current": here && "step" },
        icon(name), text, spoken(`, ${word}`));
    })),
    h("p", { class: "reason" }, rollout.reason),
    rollout.rollback_took_s !== null && h("p", { class: "took" },
      `${figure(rollout.rollback_took_s)} s from the evidence until no gateway had ${rollout.version}.`),
    rollout.waiting_for !== "" && h("p", {}, h("span", { class: "label" }, "Waits for "), rollout.waiting_for),
    rollout.rolled_back_before !== "" && h("p", { class: "note" }, icon("warn", "degraded"),
      `This version was taken back before: ${rollout.rolled_back_before}`),
    against.filter((finding) => finding.why !== rollout.reason).map((finding) =>
      h("p", { key: finding.what, class: "note" }, icon("bad", "bad"), `${finding.what}: ${finding.why}`)),
    h("div", { class: "gauges" }, gauges(rollout)),
    counts(rollout),
    buttons(rollout, command),
    details(rollout));
}

/** All that has to be gone through, and how each part stands. */
export function way(rollout) {
  const phases = [...rollout.history.map((passage) => passage.phase), rollout.phase];
  const promoted = phases.some((phase) => PROMOTED.includes(phase));
  const baked = phases.some((phase) => phase === "Baking" || phase === "Succeeded");
  const now = WENT_BACK.includes(rollout.phase) ? "ended" : rollout.phase === "Paused" ? "held" : "now";
  const parts = [[rollout.step >= 0 || promoted ? "done" : now, "start"]];
  rollout.steps.forEach((step, number) => {
    let state = number === rollout.step ? now : "to do";
    if (number < rollout.step || (promoted && number === rollout.step)) state = "done";
    else if (promoted) state = "left out";
    parts.push([state, named(step)]);
  });
  if (promoted && !baked) parts.push([now, "promotion"]);
  parts.push([rollout.phase === "Succeeded" ? "done" : baked ? now : "to do", "bake"]);
  return parts;
}

function named(step) {
  if (step.setWeight !== undefined && step.setWeight !== null) return `${step.setWeight} %`;
  return step.pause?.duration ? `wait ${step.pause.duration}` : "a person";
}

function gauges(rollout) {
  const { evidence, bake } = rollout;
  const enough = evidence.threshold;
  const share = Math.min(Math.max(Math.log(Math.max(evidence.e_value, 1)) / Math.log(enough), 0), 1);
  const powers = Math.floor(Math.log10(enough) + 1e-9);
  const ticks = Array.from({ length: powers + 1 }, (_, power) => 10 ** power).filter((tick) => tick * 2 < enough);
  const left = rollout.budget_left;
  return [
    gauge({ name: "Evidence against it", share, kind: share >= 1 ? "bad" : share >= 0.5 ? "degraded" : "calm",
      said: `${figure(evidence.e_value)}, ${figure(enough)} is enough`,
      ticks: [...ticks.map((tick) => [Math.log(tick) / Math.log(enough), count(tick)]), [1, count(enough)]] }),
    left === null ? gauge({ name: "Error budget left", share: 0, kind: "calm", said: "no attempts yet" })
      : gauge({ name: "Error budget left", share: left, said: percent(left),
        kind: left > 0.5 ? "calm" : left > 0.2 ? "degraded" : "bad" }),
    gauge({ name: "Requests it gets", share: rollout.weight / 100, kind: "calm", 
      said: rollout.over || rollout.step < 0 ? `${rollout.weight} %` : `${rollout.weight} %, for ${lasting(rollout.here_s)}` }),
    bake !== null && gauge({ name: "Bake", share: bake.of_s ? bake.done_s / bake.of_s : 1, kind: "calm",
      said: `${lasting(bake.done_s)} of ${lasting(bake.of_s)}` }),
  ];
}

export function gauge({ name, share, said, kind, ticks = [] }) {
  return h("div", { class: `gauge ${ticks.length ? "scaled" : ""}`, key: name },
    h("span", { class: "label" }, name), h("b", {}, said),
    h("div", { class: `bar ${kind}`, role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-valuenow": Math.round(Math.min(Math.max(share, 0), 1) * 100), "aria-valuetext": said,
      sizes: { share: `${Math.min(Math.max(share, 0), 1) * 100}%` } },
      h("i", {}), ticks.map(([at]) => h("s", { sizes: { at: `${at * 100}%` } }))),
    ticks.length > 0 && h("div", { class: "scale", "aria-hidden": "true" },
      ticks.map(([at, text]) => h("span", { sizes: { at: `${at * 100}%` } }, text))));
}

function counts(rollout) {
  const { evidence } = rollout;
  const rows = [
    !rollout.over && [`${rollout.version} at this step`, evidence.here],
    [`${rollout.version} in all`, evidence.canary], [`${rollout.prior || "stable"} in all`, evidence.stable],
  ].filter(Boolean);
  return h("div", { class: "counts" },
    h("table", {},
      h("caption", { class: "spoken" }, "First attempts and how they ended"),
      h("thead", {}, h("tr", {}, ["First attempts", "all", "bad", "share", "slow", "invalid"].map((name) =>
        h("th", { scope: "col", key: name }, name)))),
      h("tbody", {}, rows.map(([name, had]) => h("tr", { key: name }, h("th", { scope: "row" }, name),
        h("td", {}, count(had.attempts)), h("td", { class: had.bad ? "some" : "" }, count(had.bad)),
        h("td", {}, had.attempts ? percent(had.bad / had.attempts) : "–"),
        h("td", {}, count(had.slow)), h("td", {}, count(had.invalid)))))),
    evidence.compared > 0 && h("p", {}, h("span", { class: "label" }, "Mirrored answers agree: "),
      `${percent(evidence.agreed / evidence.compared)} of ${count(evidence.compared)}`));
}

function buttons(rollout, command) {
  const known = Object.keys(COMMANDS).filter((name) => rollout.can.includes(name));
  if (known.length === 0 || command === null) return null;
  return h("div", { class: "buttons", role: "group", "aria-label": `Commands for ${rollout.rollout}` },
    known.map((name) => {
      const [text, symbol] = COMMANDS[name];
      return h("button", { type: "button", key: name, class: name === "rollback" ? "grave" : "",
        onclick: () => command(name) }, icon(symbol), text, spoken(` ${rollout.rollout}`));
    }));
}

function details(rollout) {
  if (rollout.findings.length + rollout.history.length === 0) return null;
  return h("details", {},
    h("summary", {}, `${many(rollout.findings.length, "finding")}, ${many(rollout.history.length, "passed phase")}`),
    h("ul", { class: "findings" }, rollout.findings.map((finding) => {
      const [name, kind, word] = FOUND[finding.kind] ?? ["todo", "", String(finding.kind)];
      return h("li", { key: finding.what }, icon(name, kind), h("b", {}, finding.what), spoken(`, ${word}: `), finding.why);
    })),
    h("ol", { class: "history" }, rollout.history.map((passage, at) => h("li", { key: `${at}` },
      h("time", {}, clock(passage.since)), h("b", {}, `${passage.phase} ${passage.weight} %`),
      `${lasting(passage.until - passage.since)}, ${many(passage.attempts, "first attempt")}, ${count(passage.bad)} bad. ${passage.why}`))));
}
