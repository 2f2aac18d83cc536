// Numbers, times and sizes in words. Invariant: pure, but for the clock that `age` looks at.

const whole = new Intl.NumberFormat('en');
const near = new Intl.NumberFormat('en', {maximumFractionDigits: 1});
const fine = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});
const moment = new Intl.DateTimeFormat('en-GB', {dateStyle: 'medium', timeStyle: 'medium'});
const hour = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit'});

export const NONE = '–';

export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

export function number(value) {
  return value === null || value === undefined ? NONE : near.format(value);
}

export function amount(value) {
  return value === null || value === undefined ? NONE : fine.format(value);
}

export function plural(value, one, many) {
  return `${whole.format(value)} ${value === 1 ? one : many}`;
}

export function percent(value) {
  return value === null || value === undefined ? NONE : `${near.format(value)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(size) : near.format(size)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return NONE;
  const total = Math.max(0, seconds);
  if (total < 10) return `${near.format(total)} s`;
  const rounded = Math.round(total);
  if (rounded < 60) return `${rounded} s`;
  const parts = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = parts.findIndex(([, length]) => rounded >= length);
  const [unit, length] = parts[first];
  const left = Math.floor((rounded % length) / (parts[first + 1]?.[1] ?? 1));
  const rest = left > 0 && parts[first + 1] ? ` ${left} ${parts[first + 1][0]}` : '';
  return `${Math.floor(rounded / length)} ${unit}${rest}`;
}

export function secondsSince(instant) {
  return instant ? (Date.now() - Date.parse(instant)) / 1000 : null;
}

export function secondsBetween(from, to) {
  return from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null;
}

export function age(instant) {
  return instant ? span(secondsSince(instant)) : NONE;
}

export function at(instant) {
  return instant ? moment.format(new Date(instant)) : NONE;
}

export function clock(instant) {
  return hour.format(new Date(instant));
}

// A job's cause or a name of the protocol, for people.
export function words(name) {
  return name ? name.replaceAll('_', ' ') : NONE;
}

// A text as the shell takes it.
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// The full hour so many hours ago: one who asks again within the hour asks the same, and the dispatcher need not sum it up anew.
export function hoursAgo(hours) {
  return new Date((Math.floor(Date.now() / 3600000) - hours) * 3600000).toISOString();
}
