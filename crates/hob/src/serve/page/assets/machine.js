// The machine now: memory, processor, GPUs, and how fast tokens come.

import { call } from './api.js';
import { h, iconButton } from './dom.js';
import { bytes, duration, rate, whole } from './format.js';
import { plot } from './plot.js';

/** Shows the room, anew each second; gives what leaves it. */
export function machineRoom(hob) {
  let left = false;
  let timer = null;
  const body = h('div', { class: 'inner' }, h('p', { class: 'quiet' }, 'Looking …'));
  hob.main.replaceChildren(h('div', { class: 'room' },
    h('header', { class: 'top' }, iconButton('menu', 'Open the list', () => hob.drawer(true), { class: 'icon-button narrow' }), h('h1', {}, 'Machine')),
    h('div', { class: 'scroll' }, body)));
  document.title = 'Machine · Hob';

  const speed = h('p', { class: 'big' });
  const graph = h('div', { class: 'plot' });
  const waiting = h('p', { class: 'facts' });
  const memory = h('div', {});
  const models = h('div', { class: 'tablewrap' });
  const chips = h('div', {});
  let built = false;

  const bar = (share, kind = '') => {
    const fill = h('span', { class: `fill ${kind}` });
    fill.style.width = `${Math.min(100, share * 100)}%`;
    return h('span', { class: 'bar', 'aria-hidden': 'true' }, fill);
  };
  const fact = (name, ...value) => h('div', { class: 'fact' }, h('dt', {}, name), h('dd', {}, value));

  function show(m) {
    if (!built) {
      built = true;
      body.replaceChildren(
        h('section', { class: 'card', 'aria-labelledby': 'speed' }, h('h2', { id: 'speed' }, 'Tokens per second'), speed, graph, waiting),
        h('section', { class: 'card', 'aria-labelledby': 'memory' }, h('h2', { id: 'memory' }, 'Memory'), memory),
        h('section', { class: 'card', 'aria-labelledby': 'loaded' }, h('h2', { id: 'loaded' }, 'Loaded models'), models),
        h('section', { class: 'card', 'aria-labelledby': 'chips' }, h('h2', { id: 'chips' }, 'Processor and GPUs'), chips));
    }
    const last = m.rates.slice(-3);
    const now = last.length ? last.reduce((a, b) => a + b, 0) / last.length : 0;
    speed.replaceChildren(rate(now), h('span', {}, ' now'));
    graph.replaceChildren(plot(m.rates, m.every_ms));
    waiting.replaceChildren(...[`${whole(m.running)} answering`, `${whole(m.waiting)} waiting`, `${whole(m.tokens)} tokens since the start`, `up ${duration(m.up_ms)}`].map((f) => h('span', {}, f)));
    const used = m.memory.total - m.memory.free;
    memory.replaceChildren(bar(used / m.memory.total), h('dl', {},
      fact('Free', `${bytes(m.memory.free)} of ${bytes(m.memory.total)}`),
      m.memory.limit ? fact('Limit of the container', bytes(m.memory.limit)) : null,
      fact('Hob holds', bytes(m.resident), m.planned ? h('span', { class: 'quiet' }, `, planned ${bytes(m.planned + m.process)}`) : ''),
      m.memory.swap_total ? fact('Swap', `${bytes(m.memory.swap_used)} of ${bytes(m.memory.swap_total)}`) : null));
    models.replaceChildren(m.models.length
      ? h('table', {}, h('thead', {}, h('tr', {}, ['Model', 'Planned', 'Context', 'Answering', 'Waiting'].map((t) => h('th', { scope: 'col' }, t)))),
        h('tbody', {}, m.models.map((one) => h('tr', {}, h('th', { scope: 'row' }, one.name), [bytes(one.planned), whole(one.context), one.running, one.waiting].map((v) => h('td', {}, String(v)))))))
      : h('p', { class: 'quiet' }, 'None. The first question loads one.'));
    const p = m.processor;
    chips.replaceChildren(h('dl', {},
      fact('Processor', p.name), fact('Threads for Hob', String(p.threads)), fact('Instructions', p.isa),
      p.load === null ? null : fact('Load, last minute', p.load.toFixed(2)),
      ...m.gpus.map((g) => fact(g.name, g.total ? `${bytes(g.free ?? 0)} of ${bytes(g.total)} free` : 'memory not told', h('span', { class: 'quiet' }, ', planned for, not used yet'))),
      m.gpus.length ? null : fact('GPU', 'none found')));
  }

  async function tick() {
    if (left) return;
    try {
      const told = await call('GET', '/hob/machine');
      if (left) return;
      show(told);
    } catch (e) {
      if (!built && e.status !== 0) body.replaceChildren(h('p', { class: 'notice failed' }, e.message));
    }
    timer = setTimeout(tick, document.hidden ? 10_000 : 1000);
  }
  tick();
  return () => { left = true; clearTimeout(timer); };
}
