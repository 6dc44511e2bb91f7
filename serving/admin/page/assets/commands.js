// What a person can do from here: asked once more, with who and why, and the token if the system wants one. The answer of
// the API is shown word by word. The token is kept by this tab only, and by nobody else.

import { clock } from "./words.js";

const TOKEN = "holdfast-token";
const WHO = "holdfast-who";
const PATIENCE_MS = 20_000;
const SAID_MS = 10_000;
const part = (name) => document.getElementById(name);

/** What each command does, to whoever is about to give it. */
const ROLLOUT = {
  pause: ({ version, weight }) => ({ yes: "Pause", what:
    `${version} keeps its ${weight} % of the requests until somebody resumes the rollout. What speaks against it still takes it back.` }),
  resume: ({ version }) => ({ yes: "Resume", what:
    `The rollout of ${version} goes on from where it stands. If it was paused because something spoke against it, that is forgiven: evidence starts from nothing.` }),
  promote: ({ version, prior }) => ({ yes: "Promote", what:
    `The steps that are left are skipped: all requests go to ${version} as soon as all gateways know. ${prior} stays warm while ${version} bakes, and what speaks against it still takes it back.` }),
  abort: ({ version, prior }) => ({ yes: "Abort", what:
    `All requests go to ${prior} at once, and the rollout ends. ${version} isn't marked as bad: it can be rolled out again.` }),
  rollback: ({ version, prior }) => ({ yes: "Roll back", grave: true, what:
    `All requests go to ${prior} at once, the rollout ends, and ${version} is marked as bad: it gets no requests until a rollout of it is started.` }),
};

/** A command about a rollout. `still` says of a snapshot whether it would be taken; of what isn't there, that it wouldn't. */
export function ofRollout(name, rollout) {
  const { yes, what, grave = false } = ROLLOUT[name](rollout);
  const same = (model) => model.name === rollout.model && model.rollout?.rollout === rollout.rollout;
  return {
    title: `${yes} ${rollout.rollout}?`, what, yes, grave,
    path: `/v2/holdfast/rollouts/${encodeURIComponent(rollout.model)}/${name}`,
    done: `${yes}: written to the event log. ${rollout.rollout} follows.`,
    still: (snapshot) => snapshot.models.some((model) => same(model) && model.rollout.can.includes(name)),
  };
}

export function ofBreaker(model, version) {
  const name = `${model.name}@${version.version}`;
  const shut = (found) => found.version === version.version && found.breaker.state !== "closed";
  return {
    title: `Close the breaker of ${name}?`, yes: "Close breaker", grave: false,
    what: `${name} gets requests again at once, in all gateways, before the breaker's interval is over. If it still fails, the breaker opens again.`,
    path: `/v2/holdfast/breakers/${encodeURIComponent(model.name)}/${encodeURIComponent(version.version)}/close`,
    done: `The breaker of ${name} is closed.`,
    still: (snapshot) => snapshot.models.some((one) => one.name === model.name && one.versions.some(shut)),
  };
}

/** The dialog: one command at a time. `now` gives the newest snapshot and whether it is old. */
export class Dialog {
  constructor(now) {
    this.now = now;
    this.dialog = part("ask");
    this.command = null;
    this.sending = false;
    part("ask-no").onclick = () => this.dialog.close();
    part("ask-form").onsubmit = (event) => {
      event.preventDefault();
      this.send();
    };
    part("forget").onclick = () => {
      sessionStorage.removeItem(TOKEN);
      this.say("The token is forgotten.");
      this.look();
    };
    this.look();
  }

  open(command) {
    this.command = command;
    part("ask-title").textContent = command.title;
    part("ask-what").textContent = command.what;
    part("ask-yes").textContent = command.yes;
    part("ask-yes").classList.toggle("grave", command.grave);
    part("ask-why").value = "";
    part("ask-token").value = "";
    part("ask-error").textContent = "";
    part("ask-who").value = sessionStorage.getItem(WHO) ?? "";
    this.look();
    this.dialog.showModal();
    (part("ask-who").value ? part("ask-why") : part("ask-who")).focus();
  }

  /** The system has moved on, or this page has: what is offered must still make sense. */
  look() {
    const { snapshot, stale } = this.now();
    const wants = (snapshot?.admin.token ?? false) && sessionStorage.getItem(TOKEN) === null;
    part("ask-token-row").hidden = !wants;
    part("ask-token").required = wants;
    part("forget").hidden = sessionStorage.getItem(TOKEN) === null;
    if (this.command === null || snapshot === null) return;
    const still = this.command.still(snapshot);
    const note = !still ? "This can't be done any more: things have changed meanwhile."
      : stale ? `This page knows nothing newer than ${clock(snapshot.time)}.` : "";
    if (part("ask-note").textContent !== note) part("ask-note").textContent = note;
    part("ask-note").hidden = note === "";
    part("ask-yes").disabled = !still || this.sending;
  }

  async send() {
    if (this.sending) return;
    const command = this.command;
    const who = part("ask-who").value.trim();
    const token = part("ask-token-row").hidden ? sessionStorage.getItem(TOKEN) : part("ask-token").value.trim();
    sessionStorage.setItem(WHO, who);
    this.sending = true;
    this.look();
    part("ask-error").textContent = "";
    const error = await sent(command.path, { who, why: part("ask-why").value.trim() }, token);
    this.sending = false;
    if (sessionStorage.getItem(TOKEN) !== null) part("ask-token").value = "";
    if (error === null) {
      this.say(command.done);
      if (this.command === command) this.dialog.close();
    } else if (this.dialog.open && this.command === command) {
      part("ask-error").textContent = error;
    } else {
      this.say(`${command.yes}: ${error}`);
    }
    this.look();
    if (error !== null && !part("ask-token-row").hidden) part("ask-token").focus();
  }

  say(text) {
    const said = part("said");
    said.textContent = text;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => { said.textContent = ""; }, SAID_MS);
  }
}

/** Null if it was taken, else what is wrong, in the words of who refused it. */
async function sent(path, body, token) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  let response;
  let text;
  try {
    response = await fetch(path, {
      method: "POST", headers, body: JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await response.text();
  } catch (error) {
    if (error.name === "TimeoutError") return "No answer within 20 seconds. Look whether it was done before you try again.";
    return `Nobody answers (${error.message}). Look whether it was done before you try again.`;
  }
  if (response.status === 401) sessionStorage.removeItem(TOKEN);
  else if (token) sessionStorage.setItem(TOKEN, token);
  return response.ok ? null : told(text) || `the gateway answered ${response.status}`;
}

function told(text) {
  try {
    const { error } = JSON.parse(text);
    return typeof error === "string" ? error : text;
  } catch {
    return text;
  }
}
