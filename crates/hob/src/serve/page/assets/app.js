// Begins: what is shown by the address, and what all rooms share.

import { bus, call, onToken } from './api.js';
import { dialog, h, icon, toast } from './dom.js';
import { bindKeys } from './keys.js';
import { List } from './list.js';
import { Chat } from './chat.js';
import { imagesRoom } from './images.js';
import { modelsRoom } from './models.js';
import { machineRoom } from './machine.js';

const main = document.getElementById('main');
const banner = document.getElementById('banner');

/** What every room may need. */
const hob = {
  state: { offline: false, lasting: true, note: null, version: '', defaults: {} },
  models: [],
  main,
  go: (to) => { location.hash = to; },
  /** Reads the models again. */
  async loadModels() {
    const told = await call('GET', '/hob/models');
    hob.models = told.models;
    return told;
  },
  /** The list on narrow windows: what is below it cannot be reached meanwhile. */
  drawer(open) {
    const narrow = matchMedia('(max-width: 48rem)').matches;
    const was = document.body.classList.contains('side-open');
    document.body.classList.toggle('side-open', open);
    document.getElementById('stage').inert = open && narrow;
    if (open && narrow) document.querySelector('#side .narrow').focus();
    else if (was && narrow) main.querySelector('.narrow')?.focus();
  },
};

hob.list = new List(hob, document.getElementById('side'));
hob.chat = new Chat(hob);

let leave = null;

/** Shows what the address says. */
async function route() {
  const [, room = '', id = '', message = ''] = location.hash.replace(/^#/, '').split('/');
  leave?.();
  leave = null;
  hob.drawer(false);
  hob.list.mark(room === 'c' ? Number(id) : null, room);
  if (room === 'images') leave = imagesRoom(hob);
  else if (room === 'models') leave = modelsRoom(hob);
  else if (room === 'machine') leave = machineRoom(hob);
  else {
    leave = () => hob.chat.leave();
    const number = (text) => (room === 'c' && /^\d+$/.test(text) ? Number(text) : null);
    await hob.chat.open(number(id), number(message));
  }
  // What had the focus may be gone.
  if (document.activeElement === document.body) main.focus();
}

onToken((wrong) => new Promise((resolve) => {
  let given = null;
  const field = h('input', { type: 'password', name: 'token', autocomplete: 'current-password', required: true, 'aria-label': 'Token' });
  const form = h('form', { class: 'ask', onsubmit: (e) => { e.preventDefault(); given = field.value.trim(); box.close(); } },
    h('p', {}, wrong ? 'That is not the token of this server. ' : '', 'hob serve printed a token when it started. Enter it to use the page.'),
    field, h('div', { class: 'row end' }, h('button', { class: 'button primary' }, 'Enter')));
  const box = dialog('This server wants its token', form, { kind: 'small', onclose: () => resolve(given) });
  field.focus();
}));

function warn(...parts) {
  banner.replaceChildren(...parts);
  banner.hidden = parts.length === 0;
}

bus.addEventListener('gone', () => warn(icon('hob'), h('span', {}, 'The server is gone. Start it with ', h('code', {}, 'hob serve'), '; the page finds it again.')));
bus.addEventListener('back', () => {
  warn();
  toast('The server is back.');
  start();
});

async function start() {
  try {
    hob.state = await call('GET', '/hob/state');
    if (hob.state.note) warn(h('span', {}, hob.state.note));
    await Promise.all([hob.list.load(), hob.loadModels()]);
  } catch (e) {
    if (e.status !== 0) warn(h('span', {}, e.message));
  }
  await route();
}

document.getElementById('shade').addEventListener('click', () => hob.drawer(false));
document.getElementById('side').addEventListener('keydown', (e) => {
  if (e.key !== 'Escape' || e.defaultPrevented || !document.body.classList.contains('side-open')) return;
  e.preventDefault();
  hob.drawer(false);
});
document.querySelector('.skip').addEventListener('click', (e) => { e.preventDefault(); main.focus(); });
window.addEventListener('hashchange', () => { if (!hob.quiet) route(); hob.quiet = false; });
window.addEventListener('unhandledrejection', (e) => {
  if (e.reason?.name === 'AbortError') return;
  e.preventDefault();
  if (e.reason?.status !== 0) toast(e.reason?.message ?? String(e.reason), 'wrong');
});
window.addEventListener('pagehide', () => hob.chat.composer.keep());
bindKeys(hob);
start();
