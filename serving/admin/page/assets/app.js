// The live page: what it is told is drawn, once a second, and what people do with it is done.

import { Dialog, ofBreaker, ofRollout } from "./commands.js";
import { Feed } from "./feed.js";
import { modelCard, troubles } from "./model.js";
import { announcement, gist, happenings, incidents, staleness, verdict, VERDICTS } from "./system.js";
import { draw, h, icon } from "./view.js";
import { clock } from "./words.js";

const OF_MODEL = "/admin/models/";
const MANY_MODELS = 3;
const REPEAT_MS = 10_000;
const part = (name) => document.getElementById(name);

const page = { snapshot: null, cursor: null, folded: new Map(), gist: "", announcedAt: 0, stale: false, frame: null };
const feed = new Feed({ show, tick });
const dialog = new Dialog(() => ({ snapshot: page.snapshot, stale: feed.stale }));

const act = {
  follow(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    history.pushState(null, "", event.currentTarget.getAttribute("href"));
    render();
    scrollTo(0, 0);
    part("main").focus({ preventScroll: true });
  },
  toggle(name, open) {
    page.folded.set(name, open);
    render();
  },
  point(second) {
    if (page.cursor === second) return;
    page.cursor = second;
    page.frame ??= requestAnimationFrame(() => {
      page.frame = null;
      render();
    });
  },
  command: (name, rollout) => dialog.open(ofRollout(name, rollout)),
  close: (model, version) => dialog.open(ofBreaker(model, version)),
};

/** The model that the address names, or null for all of them. */
function wanted() {
  if (!location.pathname.startsWith(OF_MODEL)) return null;
  const name = location.pathname.slice(OF_MODEL.length);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function show(snapshot) {
  page.snapshot = snapshot;
  render();
  announce(snapshot.verdict);
  tick();
}

/** Twice a second: time passes also when nothing comes. */
function tick() {
  const stale = feed.stale;
  const alert = part("stale");
  alert.hidden = !stale;
  if (stale) {
    draw(alert, staleness(feed, page.snapshot));
    if (!page.stale) part("told").textContent = "No news from the system: what this page shows may be old.";
  } else if (page.stale) {
    part("told").textContent = `There is news again. ${page.snapshot ? announcement(page.snapshot.verdict) : ""}`;
  }
  page.stale = stale;
  document.body.classList.toggle("is-stale", stale && page.snapshot !== null);
  const state = page.snapshot?.verdict.state;
  const mark = stale ? "? no news" : { fine: "✓ fine", degraded: "▲ degraded", bad: "✖ bad" }[state] ?? "…";
  document.title = [mark, wanted(), "Holdfast"].filter(Boolean).join(" · ");
  draw(part("live"), icon(stale ? "off" : "dot", stale ? "bad" : "fine"),
    page.snapshot === null ? "connecting" : `${stale ? "stopped at" : "live,"} ${clock(page.snapshot.time)}`);
  dialog.look();
}

/** For those who hear the page: not each figure, but when something else is wrong than before. */
function announce(judged) {
  const now = gist(judged);
  const other = VERDICTS[judged.state]?.title !== page.heard;
  if (now === page.gist || (!other && performance.now() - page.announcedAt < REPEAT_MS)) return;
  page.gist = now;
  page.heard = VERDICTS[judged.state]?.title;
  page.announcedAt = performance.now();
  part("told").textContent = announcement(judged);
}

function render() {
  const { snapshot } = page;
  if (snapshot === null) return;
  const name = wanted();
  draw(part("verdict"), verdict(snapshot, act.follow));
  draw(part("models"), name === null ? overview(snapshot) : single(snapshot, name));
  draw(part("aside"), happenings(snapshot, name), incidents(snapshot, name));
}

function overview(snapshot) {
  if (snapshot.models.length === 0) return h("p", { class: "card nothing" }, "No model is served.");
  return snapshot.models.map((model, at) => modelCard({ model, snapshot, id: `m${at}`, alone: false,
    open: page.folded.get(model.name) ?? unfolded(model, snapshot), cursor: page.cursor, act }));
}

/** With many models, those that need no eye have one line. */
function unfolded(model, snapshot) {
  const rolls = model.rollout !== null && !model.rollout.over;
  return snapshot.models.length <= MANY_MODELS || rolls || troubles(model, snapshot.verdict).length > 0;
}

function single(snapshot, name) {
  const back = h("p", { class: "crumbs", key: "back" }, h("a", { href: "/admin", onclick: act.follow }, icon("back"), "All models"));
  const model = snapshot.models.find((one) => one.name === name);
  if (model === undefined) {
    return [back, h("section", { class: "card nothing", key: "gone" },
      h("h2", {}, `No model “${name}”`),
      h("p", {}, "It is gone, or it never was: no gateway serves a model of this name. If it comes back, it is shown here."))];
  }
  return [back, modelCard({ model, snapshot, id: "m0", open: true, alone: true, cursor: page.cursor, act })];
}

addEventListener("popstate", render);
addEventListener("resize", render);
feed.listen();
tick();
