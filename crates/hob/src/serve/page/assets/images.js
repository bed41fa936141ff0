// Pictures: the wish, how far it is, and what was made before.

import { blob, call } from './api.js';
import { confirm, dialog, h, icon, iconButton, speak, toast } from './dom.js';
import { duration } from './format.js';

const KEY = 'hob.images';

/** What was asked for last, on this tab's machine; pictures given are not kept. */
const remembered = () => { try { return JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { return {}; } };

/** Makes that model the one that is asked next. */
export const choose = (model) => localStorage.setItem(KEY, JSON.stringify({ ...remembered(), model }));

/** A blob as what the page's policy lets an <img> show. */
const dataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Error('The file cannot be read.'));
  reader.readAsDataURL(file);
});

/** Shows the room; gives what leaves it. */
export function imagesRoom(hob) {
  let left = false;
  let timer = null;
  let oldest = null;
  let waiting = 0;
  const now = { ...remembered(), image: null, mask: null };
  const keep = () => { const { image, mask, ...rest } = now; localStorage.setItem(KEY, JSON.stringify(rest)); };
  const set = (name, value) => { now[name] = value; keep(); };

  const fields = {};
  const number = (name, label, limits, hint = 'model’s own') => {
    fields[name] = h('input', {
      type: 'number', id: `img-${name}`, inputmode: 'decimal', placeholder: hint, value: now[name] ?? '', ...limits,
      oninput: (e) => set(name, e.target.value === '' || !e.target.validity.valid ? null : Number(e.target.value)),
    });
    return h('div', { class: 'knob' }, h('label', { for: `img-${name}` }, label), fields[name]);
  };
  const choice = (name, label) => {
    fields[name] = h('select', { id: `img-${name}`, onchange: (e) => set(name, e.target.value) });
    return h('div', { class: 'knob' }, h('label', { for: `img-${name}` }, label), fields[name]);
  };
  const words = (name, label, rows, hint) => {
    fields[name] = h('textarea', { id: `img-${name}`, rows, placeholder: hint, value: now[name] ?? '', maxlength: 32000, oninput: (e) => set(name, e.target.value) });
    return h('div', { class: 'knob wide' }, h('label', { for: `img-${name}` }, label), fields[name]);
  };
  const given = (name, label, hint) => {
    const box = h('div', { class: 'given' });
    const show = () => {
      box.replaceChildren(now[name]
        ? h('span', { class: 'row' }, h('img', { src: now[name], alt: label }), h('button', { type: 'button', class: 'button', onclick: () => { now[name] = null; field.value = ''; show(); } }, 'Remove'))
        : h('span', { class: 'quiet' }, hint));
    };
    const field = h('input', {
      type: 'file', id: `img-${name}`, accept: 'image/png,image/jpeg,image/webp',
      onchange: async (e) => { const [file] = e.target.files; if (file) { now[name] = await dataUrl(file); show(); } },
    });
    show();
    return h('div', { class: 'knob wide' }, h('label', { for: `img-${name}` }, label), field, box);
  };

  const go = h('button', { class: 'button primary' }, icon('image'), 'Make it');
  const form = h('form', { class: 'wish', onsubmit: (e) => { e.preventDefault(); make(); } },
    words('prompt', 'Prompt', 3, 'a lighthouse at dawn, (storm clouds:1.2)'),
    words('negative', 'Not', 1, 'blurry, text'),
    choice('model', 'Model'), number('width', 'Width', { min: 8, max: 8192, step: 1 }), number('height', 'Height', { min: 8, max: 8192, step: 1 }),
    number('steps', 'Steps', { min: 1, max: 1000, step: 1 }), number('cfg', 'Guidance', { min: 0, max: 100, step: 'any' }),
    choice('sampler', 'Sampler'), choice('schedule', 'Schedule'),
    number('seed', 'Seed', { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }, 'chance'), number('count', 'Pictures', { min: 1, max: 100, step: 1 }, '1'),
    h('details', { class: 'knob wide' }, h('summary', {}, 'Begin with a picture'),
      h('div', { class: 'begin' }, given('image', 'Picture', 'PNG, JPEG or WebP.'),
        given('mask', 'Mask', 'What is white in it, or transparent, is painted anew; the rest stays.'),
        number('strength', 'Strength', { min: 0, max: 1, step: 'any' }, '0.75'))),
    h('div', { class: 'row end wide' }, go));
  const running = h('div', { class: 'pulls', 'aria-live': 'polite' });
  const gallery = h('div', { class: 'gallery' });
  const more = h('button', { type: 'button', class: 'button', hidden: true, onclick: () => older() }, 'Show older ones');
  const all = h('button', { type: 'button', class: 'button', hidden: true, onclick: () => removeAll() }, 'Delete all');
  const none = h('p', { class: 'quiet' }, 'Looking …');

  hob.main.replaceChildren(h('div', { class: 'room' },
    h('header', { class: 'top' }, iconButton('menu', 'Open the list', () => hob.drawer(true), { class: 'icon-button narrow' }), h('h1', {}, 'Images')),
    h('div', { class: 'scroll' }, h('div', { class: 'inner' },
      h('section', { 'aria-labelledby': 'wish' }, h('h2', { id: 'wish' }, 'Make a picture'), form, running),
      h('section', { 'aria-labelledby': 'made' }, h('h2', { id: 'made' }, 'Made on this machine'), none, gallery, h('div', { class: 'row' }, more, all))))));
  document.title = 'Images · Hob';

  function options(select, names, first) {
    const chosen = now[select.id.slice(4)] ?? '';
    select.replaceChildren(...(first ? [h('option', { value: '' }, first)] : []), ...names.map((n) => h('option', { value: n, selected: n === chosen }, n)));
  }

  async function make() {
    if (!fields.model.value) { toast('There is no picture model on this machine.', 'wrong'); return; }
    if (!form.reportValidity()) return;
    const body = { model: fields.model.value, prompt: now.prompt ?? '', negative: now.negative ?? '', sampler: fields.sampler.value, schedule: fields.schedule.value };
    for (const name of ['width', 'height', 'steps', 'cfg', 'seed', 'count', 'image', 'mask', 'strength']) if (now[name] !== null && now[name] !== undefined) body[name] = now[name];
    if (!body.image) delete body.mask;
    waiting += 1;
    follow();
    try {
      const { ids } = await call('POST', '/hob/images', body);
      if (!left) { speak(`${ids.length} pictures are there`); await refresh(); }
    } catch (e) {
      if (!/stopped/i.test(e.message)) toast(e.message, 'wrong');
    } finally {
      waiting -= 1;
    }
  }

  const DOING = { waiting: 'Waiting', loading: 'Loading the model', reading: 'Reading the picture', painting: 'Painting', developing: 'Developing' };
  function row(p) {
    const many = p.pictures > 1 ? `, picture ${p.picture + 1} of ${p.pictures}` : '';
    const step = p.steps ? `step ${p.step} of ${p.steps}` : '';
    const time = p.left !== null ? `${duration(p.left * 1000)} left` : `${duration(p.seconds * 1000)}`;
    return h('div', { class: 'pull card' },
      h('p', {}, p.stopped ? 'Stopping' : DOING[p.doing] ?? p.doing, many, h('span', { class: 'quiet' }, ` ${[step, time].filter(Boolean).join(' · ')}`)),
      h('progress', { max: 1, value: p.part, 'aria-label': 'How far it is' }),
      h('button', { type: 'button', class: 'button', onclick: () => call('POST', '/hob/images/stop', { id: p.id }).catch((e) => toast(e.message, 'wrong')) }, 'Cancel'));
  }

  let following = false;
  async function follow() {
    if (following || left) return;
    following = true;
    let were = 0;
    try {
      for (;;) {
        const told = await call('GET', '/hob/images/running');
        if (left) return;
        const focused = running.contains(document.activeElement);
        running.replaceChildren(...told.running.map(row));
        if (focused) running.querySelector('button')?.focus();
        // One that another tab asked for is shown when it is there.
        if (told.running.length < were && !waiting) await refresh();
        were = told.running.length;
        if (!were && !waiting) return;
        await new Promise((done) => { timer = setTimeout(done, 400); });
      }
    } finally {
      following = false;
    }
  }

  /** Uses the settings of a picture again. */
  function again(r) {
    const had = { prompt: r.prompt, negative: r.negative, width: r.width, height: r.height, steps: r.steps, cfg: r.cfg, sampler: r.sampler, schedule: r.schedule, seed: r.seed, count: null, strength: r.init?.strength ?? null };
    Object.assign(now, had);
    if ([...fields.model.options].some((o) => o.value === r.model)) now.model = r.model;
    for (const [name, field] of Object.entries(fields)) field.value = now[name] ?? '';
    keep();
    fields.prompt.focus();
    if (r.init) toast('It began with a picture; give that again below.');
  }

  async function download(id, recipe) {
    const url = URL.createObjectURL(await blob(`/hob/images/${id}/picture.png`));
    h('a', { href: url, download: `hob-${recipe.seed}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async function remove(id, card) {
    if (!await confirm('Delete this picture?', 'It is deleted for real, with its settings.', 'Delete')) return;
    try { await call('DELETE', `/hob/images/${id}`); card.remove(); toast('Deleted.'); empty(); } catch (e) { toast(e.message, 'wrong'); }
  }

  async function removeAll() {
    if (!await confirm('Delete all pictures?', 'They are deleted for real, with their settings.', 'Delete all')) return;
    try { await call('DELETE', '/hob/images'); oldest = null; await refresh(); toast('Deleted.'); } catch (e) { toast(e.message, 'wrong'); }
  }

  async function open(id, r, seconds) {
    const image = h('img', { class: 'whole', alt: r.prompt || 'A picture without a prompt' });
    const facts = [r.model, `${r.width} × ${r.height}`, `${r.steps} steps`, `guidance ${r.cfg}`, r.sampler, r.schedule, `seed ${r.seed}`, duration(seconds * 1000)];
    const box = dialog('Picture', h('div', { class: 'ask' }, image, h('p', {}, r.prompt), r.negative ? h('p', { class: 'quiet' }, `Not: ${r.negative}`) : null,
      h('p', { class: 'facts' }, facts.filter(Boolean).map((f) => h('span', {}, String(f)))),
      h('div', { class: 'row end' },
        h('button', { type: 'button', class: 'button', onclick: () => download(id, r).catch((e) => toast(e.message, 'wrong')) }, 'Download'),
        h('button', { type: 'button', class: 'button primary', onclick: () => { box.close(); again(r); } }, 'Use its settings'))), { kind: 'picture' });
    try { image.src = await dataUrl(await blob(`/hob/images/${id}/picture.png`)); } catch (e) { toast(e.message, 'wrong'); }
  }

  function card({ id, recipe, seconds }) {
    const image = h('img', { alt: '', width: recipe.width, height: recipe.height });
    blob(`/hob/images/${id}/small.png`).then(dataUrl).then((url) => { image.src = url; }).catch(() => {});
    const box = h('figure', { class: 'shot', 'data-id': id },
      h('button', { type: 'button', class: 'see', 'aria-label': `Show ${recipe.prompt || 'the picture'}`, onclick: () => open(id, recipe, seconds) }, image),
      h('figcaption', { class: 'row' },
        h('span', { class: 'quiet' }, recipe.prompt),
        iconButton('again', 'Use its settings', () => again(recipe)),
        iconButton('down', 'Download', () => download(id, recipe).catch((e) => toast(e.message, 'wrong'))),
        iconButton('trash', 'Delete', () => remove(id, box), { class: 'icon-button danger' })));
    return box;
  }

  function empty() {
    const any = gallery.children.length > 0;
    none.textContent = 'None yet. Pictures stay on this machine, until you delete them.';
    none.hidden = any;
    all.hidden = !any;
  }

  function place(pictures, told) {
    oldest = pictures.at(-1)?.id ?? oldest;
    more.hidden = pictures.length < 60;
    empty();
    if (!told) return;
    options(fields.model, told.models, null);
    options(fields.sampler, told.samplers, 'model’s own');
    options(fields.schedule, told.schedules, 'model’s own');
    go.disabled = told.models.length === 0;
    if (!told.models.length) none.textContent = 'There is no picture model on this machine yet. hob pull fetches one, and hob serve --image-model PATH uses one that lies elsewhere.';
  }

  async function refresh() {
    const told = await call('GET', '/hob/images');
    if (left) return;
    const had = new Map([...gallery.children].map((c) => [Number(c.dataset.id), c]));
    const latest = told.pictures.map((p) => had.get(p.id) ?? card(p));
    gallery.replaceChildren(...latest);
    place(told.pictures, told);
    if (told.running.length) follow();
  }

  async function older() {
    const told = await call('GET', `/hob/images?before=${oldest}`);
    if (left) return;
    gallery.append(...told.pictures.map(card));
    place(told.pictures, null);
  }

  refresh().catch((e) => { none.textContent = e.message; });
  return () => { left = true; clearTimeout(timer); };
}
