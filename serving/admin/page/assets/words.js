// Figures, times and lengths of time as people read them.

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const OF_DAY = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const WITH_DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export const count = (number) => Math.round(number).toLocaleString("en");

/** Three digits, or more if they stand before the point. */
export function figure(number) {
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size >= 1e6) {
    const power = Math.floor(Math.log10(size));
    const raised = [...String(power)].map((digit) => RAISED[digit]).join("");
    return `${(number / 10 ** power).toFixed(1)} × 10${raised}`;
  }
  if (size >= 100) return count(number);
  if (size < 0.01) return "< 0.01";
  return String(Number(number.toPrecision(size < 1 ? 2 : 3)));
}

/** A share from 0 to 1. Only what is nothing is 0 %, and only what is all is 100 %. */
export function percent(share) {
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  const value = share * 100;
  if (value < 0.1) return "< 0.1 %";
  if (value > 99.9) return "> 99.9 %";
  return `${value < 10 || value > 99 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10_000 ? `${figure(value / 1000)} s` : `${figure(value)} ms`;
}

export function lasting(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < MINUTE) return `${whole} s`;
  const [large, small, unit] = whole < HOUR ? ["min", "s", MINUTE] : whole < DAY ? ["h", "min", HOUR] : ["d", "h", DAY];
  const rest = Math.floor((whole % unit) / { s: 1, min: MINUTE, h: HOUR }[small]);
  return `${Math.floor(whole / unit)} ${large}${rest > 0 ? ` ${rest} ${small}` : ""}`;
}

export const clock = (time) => OF_DAY.format(new Date(time * 1000));

/** The time of day, with the date if that isn't the last twelve hours. */
export const moment = (time, now) => (now - time < DAY / 2 ? clock(time) : WITH_DATE.format(new Date(time * 1000)));

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

export const spaced = (code) => String(code).replaceAll("_", " ");
