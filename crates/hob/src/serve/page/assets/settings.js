// How one conversation is answered.

import { dialog, h, toast } from './dom.js';

const FIELDS = [
  ['temperature', 'Temperature', 'How freely words are chosen; 0 always takes the likeliest.', { min: 0, max: 2, step: 0.05 }],
  ['top_p', 'Top-p', 'Only the likeliest words that reach this share together.', { min: 0.05, max: 1, step: 0.05 }],
  ['top_k', 'Top-k', 'Only so many of the likeliest words; 0 for all.', { min: 0, max: 200, step: 1 }],
  ['min_p', 'Min-p', 'Only words at least so many times as likely as the likeliest.', { min: 0, max: 1, step: 0.01 }],
  ['max_tokens', 'Longest answer', 'Tokens at most; empty for as many as fit.', { min: 1, step: 1, plain: true }],
  ['seed', 'Seed', 'The same seed gives the same answer; empty for chance.', { min: 0, max: 4294967295, step: 1, plain: true }],
];

/** Opens the panel; every change is kept at once by `keep`. */
export function settingsPanel(hob, settings, keep) {
  const now = { ...settings };
  let soon = null;
  const flush = () => {
    if (!soon) return;
    clearTimeout(soon);
    soon = null;
    keep({ ...now }).catch((e) => toast(e.message, 'wrong'));
  };
  const changed = () => {
    clearTimeout(soon);
    soon = setTimeout(flush, 400);
  };
  const set = (name, value) => {
    if (value === '' || value === null) delete now[name];
    else now[name] = value;
    changed();
  };
  const system = h('textarea', {
    id: 'set-system', rows: 5, value: now.system ?? '', placeholder: 'What holds for the whole conversation, such as: You are terse and precise.',
    oninput: (e) => set('system', e.target.value),
  });
  const rows = FIELDS.map(([name, label, help, { plain, ...limits }]) => {
    const usual = hob.state.defaults?.[name];
    const number = h('input', {
      type: 'number', id: `set-${name}`, ...limits, inputmode: 'decimal', value: now[name] ?? '', 'aria-describedby': `help-${name}`,
      placeholder: usual ?? (name === 'seed' ? 'chance' : 'all'),
      oninput: (e) => { if (e.target.validity.valid) { set(name, e.target.value === '' ? null : Number(e.target.value)); if (slider) slider.value = e.target.value || usual; } },
    });
    const slider = plain ? null : h('input', {
      type: 'range', ...limits, 'aria-label': `${label}, slider`, oninput: (e) => { number.value = e.target.value; set(name, Number(e.target.value)); },
    });
    if (slider) slider.value = now[name] ?? usual ?? limits.min;
    return h('div', { class: 'setting' }, h('label', { for: `set-${name}` }, label), number, slider, h('p', { class: 'quiet', id: `help-${name}` }, help));
  });
  const reset = h('button', { type: 'button', class: 'button', onclick: () => {
    for (const [name] of FIELDS) delete now[name];
    for (const field of box.querySelectorAll('.setting input[type=number]')) field.value = '';
    for (const field of box.querySelectorAll('.setting input[type=range]')) field.value = hob.state.defaults?.[field.previousElementSibling.id.slice(4)] ?? 0;
    changed();
  } }, 'Reset');
  const box = dialog('Settings of this chat', h('form', { class: 'settings', onsubmit: (e) => { e.preventDefault(); box.close(); } },
    h('div', { class: 'setting wide' }, h('label', { for: 'set-system' }, 'System prompt'), system), rows,
    h('div', { class: 'row end' }, reset, h('button', { class: 'button primary' }, 'Done'))), { kind: 'panel', onclose: flush });
  system.focus();
}
