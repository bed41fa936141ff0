// A line over time, drawn by hand.

import { s } from './dom.js';

const [W, H, PAD] = [600, 140, 18];

/** A number at or above `x` that is good to read: 1, 2, 5, 10, 20 … */
function round(x) {
  const power = 10 ** Math.floor(Math.log10(Math.max(x, 1)));
  return [1, 2, 5, 10].map((m) => m * power).find((n) => n >= x);
}

/** Values, the latest last, `every` milliseconds apart. */
export function plot(values, every) {
  const top = round(Math.max(...values, 1));
  const span = Math.max(2, values.length - 1);
  const x = (i) => ((i + span + 1 - values.length) / span) * W;
  const y = (v) => PAD + (1 - v / top) * (H - PAD - 2);
  const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
  const most = Math.max(...values, 0);
  const seconds = Math.round((span * every) / 1000);
  const past = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  const svg = s('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', preserveAspectRatio: 'none', 'aria-label': `Tokens per second over the last ${past}, at most ${Math.round(most)}` },
    s('line', { class: 'rule', x1: 0, x2: W, y1: y(top), y2: y(top) }), s('line', { class: 'rule', x1: 0, x2: W, y1: y(top / 2), y2: y(top / 2) }),
    s('line', { class: 'rule', x1: 0, x2: W, y1: y(0), y2: y(0) }));
  if (points.length > 1) {
    svg.append(s('polygon', { class: 'area', points: `${x(0)},${y(0)} ${points.join(' ')} ${W},${y(0)}` }), s('polyline', { class: 'line', points: points.join(' ') }));
  }
  const box = document.createElement('div');
  const label = (text, kind) => {
    const element = document.createElement('span');
    element.className = kind;
    element.textContent = text;
    element.setAttribute('aria-hidden', 'true');
    return element;
  };
  box.append(svg, label(String(top), 'top'), label(`${past} ago`, 'from'), label('now', 'to'));
  return box;
}
