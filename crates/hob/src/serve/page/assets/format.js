// Numbers and dates as people read them.

/** 98362432 is 98.4 MB: decimal units, as in `hob list`. */
export function bytes(n) {
  let unit = 0;
  while (n >= 1000 && unit < 4) { n /= 1000; unit += 1; }
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${['B', 'kB', 'MB', 'GB', 'TB'][unit]}`;
}

/** 134515008 is 135M. */
export function count(n) {
  const [size, unit] = [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'K']].find(([size]) => n >= size) ?? [1, ''];
  const value = n / size;
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)}${unit}`;
}

export const whole = (n) => Math.round(n).toLocaleString('en');

/** Tokens a second, with as many digits as it deserves. */
export const rate = (n) => (n > 0 && n < 10 ? n.toFixed(1) : String(Math.round(n)));

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** The heading of a day in the list. */
export function day(ms, now = new Date()) {
  const start = (d) => new Date(d.getFullYear(), d.getMonth(), d.getDate());
  const days = Math.round((start(now) - start(new Date(ms))) / 864e5);
  if (days <= 0) return 'Today';
  if (days === 1) return 'Yesterday';
  const date = new Date(ms);
  if (days < 7) return date.toLocaleDateString('en', { weekday: 'long' });
  const year = date.getFullYear() === now.getFullYear() ? undefined : 'numeric';
  return days < 31
    ? date.toLocaleDateString('en', { day: 'numeric', month: 'long', year })
    : date.toLocaleDateString('en', { month: 'long', year });
}

/** A file's name of a title. */
export const fileName = (title) =>
  (title || 'conversation').replace(/[^\p{L}\p{N} _-]/gu, '').trim().replace(/\s+/g, '-').slice(0, 60) || 'conversation';
