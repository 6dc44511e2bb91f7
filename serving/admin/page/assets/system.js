// The whole node: is it fine, and if not what is wrong; gateways and controller; what happened; incidents.

import { h, icon } from "./view.js";
import { clock, count, lasting, many, moment, spaced } from "./words.js";

const REASONS_SHOWN = 6;
const EVENTS_SHOWN = 14;

export const VERDICTS = {
  fine: { icon: "ok", title: "All is fine", means: "Requests are answered as they should be." },
  degraded: { icon: "warn", title: "Degraded", means: "Requests are answered, but something isn't as it should be." },
  bad: { icon: "bad", title: "Bad", means: "Callers get errors, or nobody can answer them." },
};

/** Reasons begin with the name of the model, or of its version. */
export function isAbout(model, reason) {
  return ["@", ":"].some((mark) => reason.startsWith(`${model.name}${mark}`));
}

export const pathOf = (name) => `/admin/models/${encodeURIComponent(name)}`;

export function verdict(snapshot, follow) {
  const { state, reasons } = snapshot.verdict;
  const says = VERDICTS[state] ?? { icon: "warn", title: String(state), means: "" };
  const lines = reasons.map((reason, at) => h("li", { key: `${at}` }, linked(reason, snapshot.models, follow)));
  return h("section", { class: `verdict ${state}`, "aria-labelledby": "verdict-title" },
    icon(says.icon, "big"),
    h("div", { class: "said" },
      h("h1", { id: "verdict-title" }, says.title),
      h("p", {}, says.means),
      lines.length > 0 && h("ol", { class: "reasons" }, lines.slice(0, REASONS_SHOWN)),
      lines.length > REASONS_SHOWN && h("details", {},
        h("summary", {}, `${lines.length - REASONS_SHOWN} more`),
        h("ol", { class: "reasons", start: REASONS_SHOWN + 1 }, lines.slice(REASONS_SHOWN)))),
    facts(snapshot));
}

function linked(reason, models, follow) {
  const model = models.find((one) => isAbout(one, reason));
  if (model === undefined) return reason;
  return [h("a", { href: pathOf(model.name), onclick: follow }, model.name), reason.slice(model.name.length)];
}

/** What stays the same if the same is wrong with other figures: for those who hear it, it is told once. */
export function gist({ state, reasons }) {
  return [state, ...reasons].join("\n").replace(/\d+([.,]\d+)*/g, "#");
}

export function announcement({ state, reasons }) {
  const { title } = VERDICTS[state] ?? { title: String(state) };
  const more = reasons.length > 1 ? `, and ${many(reasons.length - 1, "reason")} more` : "";
  return reasons.length === 0 ? `${title}.` : `${title}: ${reasons[0]}${more}.`;
}

function facts({ gateways, controller, holdfast, admin }) {
  const whole = gateways.accepting >= gateways.expected;
  const tables = new Set(gateways.generations);
  const writes = controller.state === "writing";
  return h("dl", { class: "facts" },
    fact("Gateways", [whole ? icon("ok", "fine") : gateways.accepting ? icon("warn", "degraded") : icon("bad", "bad"),
      `${gateways.accepting} of ${gateways.expected} accept requests`], [
      gateways.seen < gateways.expected && `${gateways.seen} answer`,
      gateways.ports.length > 0 && `at ${gateways.ports.join(", ")}`,
      tables.size > 1 ? `routing tables differ: ${gateways.generations.join(", ")}`
        : tables.size === 1 && `routing table ${[...tables][0]}`,
    ]),
    fact("Rollout controller", [icon(writes ? "ok" : "warn", writes ? "fine" : "degraded"), spaced(controller.state)],
      [controller.detail, controller.seq > 0 && `event ${count(controller.seq)}`,
        controller.pid > 0 && `process ${controller.pid}`, controller.log]),
    fact("Holdfast", [holdfast.version], [`up ${lasting(holdfast.uptime_s)}`, `this gateway: process ${holdfast.pid}`]),
    fact("Changes", [changes(admin)], []));
}

function changes(admin) {
  if (!admin.open) return "not over HTTP: the settings say so (admin, admin_token_file)";
  return admin.token ? "with the admin token" : "from this machine, without a token";
}

function fact(name, value, more) {
  const known = more.filter(Boolean);
  return h("div", {}, h("dt", {}, name), h("dd", {}, value,
    known.length > 0 && h("small", {}, known.join(" · "))));
}

/** `only`: a model's name, or null for all. */
export function happenings(snapshot, only) {
  const told = snapshot.events.filter((event) => only === null || event.model === only || event.model === "");
  const lines = told.map((event) => h("li", { key: `${event.time} ${event.kind} ${event.text}`, class: event.kind },
    h("time", { datetime: new Date(event.time * 1000).toISOString() }, moment(event.time, snapshot.time)),
    h("span", { class: "kind" }, event.kind),
    h("span", { class: "text" }, event.text)));
  return h("section", { "aria-labelledby": "events-title", class: "card events" },
    h("h2", { id: "events-title" }, "What happened"),
    lines.length === 0 && h("p", { class: "quiet" }, "Nothing lately."),
    lines.length > 0 && h("ol", {}, lines.slice(0, EVENTS_SHOWN)),
    lines.length > EVENTS_SHOWN && h("details", {},
      h("summary", {}, `${lines.length - EVENTS_SHOWN} earlier`), h("ol", {}, lines.slice(EVENTS_SHOWN))));
}

/** Requests that went wrong and were kept: what failed, without anything that a caller sent. */
export function incidents(snapshot, only) {
  const { kept, newest } = snapshot.incidents;
  if (!kept) return null;
  const told = newest.filter((incident) => only === null || incident.model === only);
  return h("section", { "aria-labelledby": "incidents-title", class: "card events" },
    h("h2", { id: "incidents-title" }, "Incidents ", h("small", {}, `${count(kept)} kept`)),
    h("ol", {}, told.map((incident) => h("li", { key: `${incident.id}`, class: "incident" },
      h("time", {}, moment(incident.time, snapshot.time)),
      h("span", { class: "kind" }, `#${incident.id}`),
      h("span", { class: "text" }, described(incident))))),
    h("p", { class: "quiet" }, "holdfast incidents show ID tells all of one."));
}

function described(incident) {
  const who = [incident.model, incident.version].filter(Boolean).join("@");
  const by = incident.answered_by ? ` (answered by ${incident.answered_by})` : "";
  return `${[who, spaced(incident.outcome), incident.failure].filter(Boolean).join(" · ")}${by}`;
}

/** Nothing new has come for a while: how old everything is, loudly. */
export function staleness(feed, snapshot) {
  const since = Math.floor(feed.age / 1000);
  const shows = snapshot === null ? "Nothing has come yet."
    : `Everything below is from ${clock(snapshot.time)} and may have changed.`;
  return [icon("off", "big"), h("p", {}, h("strong", {}, `No news for ${lasting(since)}`),
    feed.problem && ` (${feed.problem})`, ". ", shows, " Trying again.")];
}
