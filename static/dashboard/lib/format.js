// Numbers with their units, and times in the viewer's zone and language.

const NONE = "–";
const plain = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const dayOnly = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const isMissing = (value) => value === null || value === undefined || Number.isNaN(value);

export const count = (value) => (isMissing(value) ? NONE : Math.abs(value) < 100_000 ? plain.format(value) : short.format(value));

/** At most `digits` digits behind the point, fewer for larger numbers. */
export function decimal(value, digits = 1) {
  if (isMissing(value)) return NONE;
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: Math.abs(value) >= 100 ? 0 : digits }).format(value);
}

export const percent = (value, digits = 0) => (isMissing(value) ? NONE : `${decimal(value, digits)} %`);
/** A share of 1 as a percentage. */
export const share = (value, digits = 1) => (isMissing(value) ? NONE : percent(value * 100, digits));

export function seconds(value) {
  if (isMissing(value)) return NONE;
  if (value < 0.001) return `${decimal(value * 1e6, 0)} µs`;
  if (value < 1) return `${decimal(value * 1000, value < 0.01 ? 1 : 0)} ms`;
  if (value < 90) return `${decimal(value, value < 10 ? 2 : 1)} s`;
  return duration(value);
}

/** Longer spans, such as an uptime: "2 d 4 h", "3 min 20 s". */
export function duration(value) {
  if (isMissing(value)) return NONE;
  const parts = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => value >= size);
  if (first === -1) return "0 s";
  let left = Math.round(value);
  const told = [];
  for (const [size, unit] of parts.slice(first, first + 2)) {
    const whole = Math.floor(left / size);
    left -= whole * size;
    if (whole) told.push(`${whole} ${unit}`);
  }
  return told.join(" ");
}

export function bytes(value) {
  if (isMissing(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let index = 0;
  let left = value;
  while (Math.abs(left) >= 1000 && index < units.length - 1) { left /= 1024; index += 1; }
  return `${decimal(left, index > 2 ? 1 : 0)} ${units[index]}`;
}

export const time = (iso) => (iso ? clock.format(new Date(iso)) : NONE);
export const dateTime = (iso) => (iso ? moment.format(new Date(iso)) : NONE);
export const day = (iso) => (iso ? dayOnly.format(new Date(iso)) : NONE);

export function ago(iso) {
  if (!iso) return NONE;
  const apart = (new Date(iso) - Date.now()) / 1000;
  for (const [size, unit] of [[86_400, "day"], [3_600, "hour"], [60, "minute"]]) {
    if (Math.abs(apart) >= size) return relative.format(Math.trunc(apart / size), unit);
  }
  return relative.format(Math.trunc(apart), "second");
}
