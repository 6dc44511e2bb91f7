// A model's versions: who gets which part of the requests, whether each is well, its breaker and its replicas.

import { h, icon, spoken } from "./view.js";
import { count, lasting, many, moment, percent, spaced } from "./words.js";

const ROLES = { stable: "stable", canary: "canary", standby: "standby", unavailable: "not served" };
const BREAKERS = {
  closed: ["ok", "fine", "closed"], "half-open": ["warn", "degraded", "half-open"], open: ["off", "bad", "open"],
};

/** `close` is called with the version whose breaker a person wants to close; null if nobody may. */
export function versionCards({ model, snapshot, id, close }) {
  const marked = marks(model, snapshot);
  const served = Object.keys(ROLES).flatMap((role) =>
    model.versions.filter((version) => version.role === role && role !== "unavailable"));
  const absent = model.versions.filter((version) => version.role === "unavailable");
  const told = new Set(absent.map((version) => version.version));
  return h("section", { class: "panel", key: "versions", "aria-labelledby": `${id}-versions` },
    h("h3", { id: `${id}-versions` }, "Versions"),
    split(model, served),
    h("ul", { class: "versions" }, served.map((version) => card({ version, model, snapshot, close, marked }))),
    h("ul", { class: "absent" },
      absent.map((version) => h("li", { key: version.version }, icon("off"),
        h("b", {}, `${version.version} `), `isn't served: ${version.reason || "nobody says why"}`)),
      [...marked].filter(([name]) => !told.has(name) && !served.some((version) => version.version === name))
        .map(([name, why]) => h("li", { key: name }, icon("back"), h("b", {}, `${name} `), `was taken back: ${why}`))));
}

function marks(model, snapshot) {
  const prefix = `${model.name}@`;
  return new Map(Object.entries(snapshot.rolled_back).filter(([name]) => name.startsWith(prefix))
    .map(([name, why]) => [name.slice(prefix.length), why]));
}

/** The traffic split as one bar. */
function split(model, served) {
  const parts = served.filter((version) => version.weight > 0);
  if (parts.length < 2) return null;
  const said = parts.map((version) => `${version.version} ${percent(version.weight)}`).join(", ");
  return h("div", { class: "split", role: "img", "aria-label": `Traffic split: ${said}` },
    parts.map((version) => h("span", { key: version.version, class: version.role, sizes: { share: version.weight } },
      h("b", {}, version.version), h("em", {}, ` ${percent(version.weight)}`))));
}

function card({ version, model, snapshot, close, marked }) {
  const trouble = !version.ready || version.breaker.state !== "closed";
  return h("li", { key: version.version, class: `version-card ${trouble ? "trouble" : ""}` },
    h("h4", {}, version.version, " ", h("span", { class: `badge ${version.role}` }, ROLES[version.role] ?? version.role),
      h("span", { class: "weight" }, percent(version.weight), spoken(" of the requests"))),
    h("dl", {},
      row("Health", version.ready ? [icon("ok", "fine"), "ready"]
        : [icon("bad", "bad"), version.reason || "can't take work in every gateway"]),
      row("Breaker", breaker(version, snapshot.time)),
      row("Replicas", replicas(version)),
      row("Queue", `${count(version.waiting)} wait, ${many(version.inflight_batches, "batch", "batches")} running`),
      row("Attempts", attempts(version.attempts)),
      version.golden_failed > 0 && row("Golden test", [icon("warn", "degraded"), `failed ${count(version.golden_failed)} times`]),
      marked.has(version.version) && row("Marked", [icon("back", "degraded"), `taken back before: ${marked.get(version.version)}`]),
      version.digest !== "" && row("Digest", h("code", { title: version.digest }, version.digest.replace(/^sha256:/, "").slice(0, 12)))),
    version.breaker.state !== "closed" && close !== null && h("div", { class: "buttons" },
      h("button", { type: "button", onclick: () => close(version) }, icon("ok"), "Close breaker",
        spoken(` of ${model.name}@${version.version}`))));
}

function row(name, value) {
  return h("div", { key: name }, h("dt", {}, name), h("dd", {}, value));
}

function breaker({ breaker: of }, now) {
  const [symbol, kind, word] = BREAKERS[of.state] ?? ["warn", "degraded", String(of.state)];
  const ports = Object.keys(of.gateways);
  const like = ports.filter((port) => of.gateways[port] === of.state);
  const others = ports.filter((port) => of.gateways[port] !== of.state);
  if (of.state === "closed") {
    return [icon(symbol, kind), word, of.opened > 0 && h("small", {}, `opened ${many(of.opened, "time")}, closed since ${
      moment(of.since, now)}`)];
  }
  const retry = of.retry_at === null ? "" : of.retry_at > now ? `, tries again in ${lasting(Math.ceil(of.retry_at - now))}`
    : ", tries again with the next request";
  return [icon(symbol, kind), h("b", {}, word), ` for ${lasting(now - of.since)}${retry}`,
    h("small", {}, of.why),
    ports.length > 0 && h("small", {}, `${like.length} of ${many(ports.length, "gateway")}: ${like.join(", ")}`,
      others.map((port) => `; ${of.gateways[port]} at ${port}`)),
    h("small", {}, `opened ${many(of.opened, "time")}`)];
}

function replicas({ replicas: all }) {
  if (all.length === 0) return [icon("off", "bad"), "none"];
  const well = all.filter((replica) => replica.live && !replica.ejected);
  return [
    h("span", { class: "dots", "aria-hidden": "true" }, all.map((replica) =>
      icon(replica.ejected ? "warn" : replica.live ? "dot" : "todo", replica.ejected ? "degraded" : replica.live ? "fine" : "bad"))),
    `${well.length} of ${all.length} well`,
    h("details", {}, h("summary", {}, "each"),
      h("ul", {}, all.map((replica) => h("li", { key: replica.id }, h("code", {}, replica.id),
        ` ${standing(replica)}, ${many(replica.outstanding, "batch", "batches")} there${
          replica.pid ? `, process ${replica.pid}` : ""}${replica.ip ? ` on ${replica.ip}` : ""}`)))),
    all.filter((replica) => replica.ejected && replica.why).map((replica) =>
      h("small", { key: replica.id }, `${replica.id} is left out: ${replica.why}`)),
  ];
}

function standing(replica) {
  if (!replica.live) return "can't be reached";
  return replica.ejected ? "left out" : "well";
}

function attempts(all) {
  const ended = Object.entries(all).sort(([, one], [, other]) => other - one);
  if (ended.length === 0) return "none yet";
  return ended.map(([code, number], at) => h("span", { key: code, class: code === "ok" ? "" : "some" },
    `${at > 0 ? ", " : ""}${count(number)} ${spaced(code)}`));
}
