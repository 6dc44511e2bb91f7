// What the page is told: snapshots by server-sent events, each second. When they stop coming it says so, and tries again.
// Not here: what is made of them (app.js).

const LIVE = "/v2/holdfast/live";
const OVERVIEW = "/v2/holdfast/overview";
export const STALE_MS = 3000;
const SILENT_MS = 10_000;
const RETRY_MS = 2000;
const KEPT_S = 300;

/** `show` is given each snapshot, with the series of the last five minutes; `tick` is called twice a second. */
export class Feed {
  constructor({ show, tick }) {
    this.show = show;
    this.heardAt = null;
    this.problem = "";
    this.kept = new Map();
    setInterval(() => {
      this.listenIfSilent();
      tick();
    }, 500);
  }

  /** Milliseconds since the last snapshot, or since we began to listen. */
  get age() {
    return performance.now() - (this.heardAt ?? this.beganAt);
  }

  get stale() {
    return this.age > STALE_MS;
  }

  listen() {
    this.source?.close();
    this.beganAt ??= performance.now();
    this.openedAt = performance.now();
    let whole = true;
    const source = new EventSource(LIVE);
    source.onopen = () => { whole = true; };
    source.addEventListener("snapshot", (event) => {
      if (this.take(event.data, whole)) whole = false;
    });
    source.onerror = () => {
      this.problem = "the connection is broken";
      if (source.readyState === EventSource.CLOSED) this.askInstead(source);
    };
    this.source = source;
  }

  /** A stream can look open and be dead, as after a laptop's sleep. */
  listenIfSilent() {
    if (this.age > SILENT_MS && performance.now() - this.openedAt > SILENT_MS) this.listen();
  }

  /** Refused, for example because too many watch: a snapshot by itself, and then another try. */
  async askInstead(source) {
    try {
      const response = await fetch(OVERVIEW, { cache: "no-store", signal: AbortSignal.timeout(RETRY_MS) });
      if (response.ok) this.take(await response.text(), true);
      else this.problem = `the gateway answers ${response.status}`;
    } catch {
      this.problem = "nobody answers";
    }
    setTimeout(() => { if (this.source === source) this.listen(); }, RETRY_MS);
  }

  take(text, whole) {
    let snapshot;
    try {
      snapshot = JSON.parse(text);
    } catch {
      this.problem = "what comes can't be read";
      return false;
    }
    if (whole) this.kept.clear();
    for (const model of snapshot.models) {
      model.series = joined(this.kept.get(model.name), model.series);
      this.kept.set(model.name, model.series);
    }
    this.heardAt = performance.now();
    this.problem = "";
    this.show(snapshot);
    return true;
  }
}

/** A series with what came after it, not longer than five minutes. */
export function joined(before, after) {
  if (before === undefined || before.t.length === 0) return after;
  const last = before.t.at(-1);
  const news = after.t.findIndex((second) => second > last);
  const from = news < 0 ? after.t.length : news;
  const end = after.t.at(-1) ?? last;
  const first = before.t.findIndex((second) => second > end - KEPT_S);
  const start = first < 0 ? before.t.length : first;
  return Object.fromEntries(
    Object.keys(before).map((name) => [name, [...before[name].slice(start), ...after[name].slice(from)]]),
  );
}
