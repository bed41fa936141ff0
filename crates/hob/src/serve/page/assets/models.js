// The models of this machine: what is here, what fits, what is being fetched, what is loaded.

import { call, sentence } from './api.js';
import { choose } from './images.js';
import { confirm, h, icon, iconButton, toast } from './dom.js';
import { bytes, count, whole } from './format.js';

/** Shows the room; gives what leaves it. */
export function modelsRoom(hob) {
  let left = false;
  let timer = null;
  let told = null;
  const here = h('div', { class: 'cards' });
  const pulls = h('div', { class: 'pulls', 'aria-live': 'polite' });
  const verdict = h('div', { class: 'verdict', 'aria-live': 'polite' });
  const name = h('input', {
    id: 'model-name', placeholder: 'hf:owner/repo or llama-3.1-8b', autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off', required: true,
  });
  const form = h('form', { class: 'find', onsubmit: (e) => { e.preventDefault(); ask(name.value.trim()); } },
    h('label', { for: 'model-name' }, 'Find a model'),
    h('div', { class: 'row' }, name, h('button', { class: 'button primary' }, 'Does it fit?')),
    h('p', { class: 'quiet' }, 'A name of the catalogue, a well-known model, or a repository of the Hugging Face hub. Only its header is fetched to answer.'));
  const offers = h('div', { class: 'offers' });

  hob.main.replaceChildren(h('div', { class: 'room' },
    h('header', { class: 'top' }, iconButton('menu', 'Open the list', () => hob.drawer(true), { class: 'icon-button narrow' }), h('h1', {}, 'Models')),
    h('div', { class: 'scroll' }, h('div', { class: 'inner' },
      h('section', { 'aria-labelledby': 'get' }, h('h2', { id: 'get' }, 'Get one'), form, verdict, pulls, offers),
      h('section', { 'aria-labelledby': 'have' }, h('h2', { id: 'have' }, 'On this machine'), here)))));
  document.title = 'Models · Hob';
  here.append(h('p', { class: 'quiet' }, 'Looking …'));

  async function ask(model) {
    verdict.replaceChildren(h('p', { class: 'doing' }, icon('hob'), `Asking whether ${model} fits …`));
    try {
      const fit = await call('POST', '/hob/fit', { name: model });
      if (left) return;
      const good = { ram: 'good', gpu: 'good', split: 'good', disk: 'slow', no: 'bad' }[fit.verdict] ?? 'slow';
      const kind = good === 'good' && fit.tps !== null && fit.tps < 5 ? 'slow' : good;
      const share = Math.min(1, fit.total_bytes / Math.max(1, fit.free_bytes));
      const fill = h('span', { class: 'fill' });
      fill.style.width = `${share * 100}%`;
      verdict.replaceChildren(h('div', { class: `card fit ${kind}` },
        h('h3', {}, fit.model),
        h('p', { class: 'facts' }, [`${count(fit.parameters)} parameters`, fit.quantization, `${bytes(fit.file_bytes)} to fetch`, `${whole(fit.ctx)} tokens of context`, fit.licence].filter(Boolean).map((f) => h('span', {}, f))),
        h('div', { class: 'gauge wide' }, h('span', { class: 'bar', 'aria-hidden': 'true' }, fill), h('span', {}, `${bytes(fit.total_bytes)} of ${bytes(fit.free_bytes)} free`)),
        ...fit.sentences.map((t) => h('p', {}, t)),
        fit.variants.length > 1 ? h('p', { class: 'quiet' }, `Also there: ${fit.variants.join(', ')}.`) : null,
        !fit.pull && !told?.models.some((m) => m.name === fit.model) ? h('p', { class: 'quiet' }, 'To fetch it, name a repository of the hub that has it: hf:owner/repo:', fit.quantization, '.') : null,
        fit.pull && !told?.offline ? h('button', { type: 'button', class: 'button primary', onclick: () => pull(fit.pull) }, 'Fetch it') : null));
    } catch (e) {
      verdict.replaceChildren(h('p', { class: 'notice failed' }, e.message));
    }
  }

  async function pull(model) {
    await call('POST', '/hob/pulls', { name: model });
    verdict.replaceChildren();
    poll();
  }

  const act = async (path, model, button) => {
    button.disabled = true;
    button.classList.add('waits');
    try { await call('POST', path, { name: model }); } catch (e) { toast(e.message, 'wrong'); }
    await refresh();
  };

  async function remove(m) {
    const sure = await confirm('Delete this model?', `${m.name} (${bytes(m.bytes)}) is deleted from ${m.place}'s folder. It can be fetched again.`, 'Delete');
    if (!sure) return;
    try { await call('POST', '/hob/models/remove', { name: m.name }); toast('Deleted.'); } catch (e) { toast(e.message, 'wrong'); }
    await refresh();
  }

  function card(m) {
    const facts = [m.architecture, m.parameters ? `${count(m.parameters)} parameters` : null, m.quantization, bytes(m.bytes), m.context ? `${whole(m.context)} tokens of context` : null, m.licence, m.place];
    const l = m.loaded;
    return h('article', { class: `card${l ? ' on' : ''}`, 'aria-label': m.name },
      h('h3', {}, m.alias ?? m.name, l ? h('span', { class: 'badge' }, l.running ? 'answering' : 'loaded') : null),
      m.alias ? h('p', { class: 'quiet name' }, m.name) : null,
      h('p', { class: 'facts' }, facts.filter(Boolean).map((f) => h('span', {}, f))),
      m.error ? h('p', { class: 'notice failed' }, m.error) : null,
      l ? h('p', { class: 'quiet' }, `${bytes(l.planned)} planned, ${whole(l.context)} tokens of context${l.pinned ? ', stays loaded' : ''}.`) : null,
      h('div', { class: 'row' },
        m.error ? null : h('a', { class: 'button', href: '#/', onclick: () => localStorage.setItem('hob.model', m.name) }, 'Chat'),
        m.error ? null : l
          ? h('button', { type: 'button', class: 'button', disabled: l.pinned || l.running > 0, 'aria-label': `Unload ${m.name}`, onclick: (e) => act('/hob/models/unload', m.name, e.currentTarget) }, 'Unload')
          : h('button', { type: 'button', class: 'button', 'aria-label': `Load ${m.name}`, onclick: (e) => act('/hob/models/load', m.name, e.currentTarget) }, 'Load'),
        m.removable ? iconButton('trash', `Delete ${m.name}`, () => remove(m), { class: 'icon-button danger', disabled: Boolean(l) }) : null));
  }

  /** A model that makes pictures. */
  function pictureCard(m) {
    const l = m.loaded;
    const need = (n) => h('li', { class: n.fits ? 'good' : 'bad' }, icon(n.fits ? 'check' : 'close'), `${n.side} × ${n.side}: ${bytes(n.bytes)}${n.fits ? ', fits' : `, and ${bytes(m.free)} are free`}`);
    return h('article', { class: `card${l ? ' on' : ''}`, 'aria-label': m.name },
      h('h3', {}, m.name, l ? h('span', { class: 'badge' }, l.running ? 'painting' : 'loaded') : null),
      h('p', { class: 'facts' }, [m.family, m.purpose ? `pictures ${m.purpose}` : null, m.parameters ? `${count(m.parameters)} parameters` : null, m.quantization, bytes(m.bytes), m.place].filter(Boolean).map((f) => h('span', {}, f))),
      m.error ? h('p', { class: 'notice failed' }, sentence(m.error)) : null,
      m.needs?.length ? h('ul', { class: 'needs', 'aria-label': 'Memory that a picture takes' }, m.needs.map(need)) : null,
      l ? h('p', { class: 'quiet' }, `${bytes(l.planned)} planned.`) : null,
      h('div', { class: 'row' },
        m.error ? null : h('a', { class: 'button', href: '#/images', onclick: () => choose(m.name) }, 'Make pictures'),
        m.error ? null : l
          ? h('button', { type: 'button', class: 'button', disabled: l.running > 0, 'aria-label': `Unload ${m.name}`, onclick: (e) => act('/hob/models/unload', m.name, e.currentTarget) }, 'Unload')
          : h('button', { type: 'button', class: 'button', 'aria-label': `Load ${m.name}`, onclick: (e) => act('/hob/models/load', m.name, e.currentTarget) }, 'Load'),
        m.removable ? iconButton('trash', `Delete ${m.name}`, () => remove(m), { class: 'icon-button danger', disabled: Boolean(l) }) : null));
  }

  function showOffers() {
    const missing = told.catalogue.filter((o) => !o.here);
    offers.replaceChildren(...(told.offline || !missing.length ? [] : [h('p', { class: 'quiet' }, 'To begin with:'),
      ...missing.map((o) => h('button', { type: 'button', class: 'offer', onclick: () => ask(o.name) },
        h('strong', {}, o.name), h('span', { class: 'facts' }, [o.title, bytes(o.bytes), o.licence].map((f) => h('span', {}, f)))))]));
    if (told.offline) {
      form.replaceWith(h('p', { class: 'notice' }, 'The server runs with ', h('code', {}, '--offline'), ': it opens no connection and fetches nothing. What is on this machine works as always.'));
    }
  }

  async function refresh() {
    if (left) return;
    told = await hob.loadModels();
    if (left) return;
    const focused = document.activeElement?.getAttribute('aria-label');
    const cards = [...told.models.map(card), ...told.pictures.map(pictureCard)];
    here.replaceChildren(...(cards.length ? cards : [h('p', { class: 'quiet' }, 'None yet. The starter is small and a good first one.')]),
      ...told.notes.map((n) => h('p', { class: 'notice' }, n)));
    if (focused && !document.activeElement?.getAttribute('aria-label')) here.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    showOffers();
  }

  async function poll() {
    clearTimeout(timer);
    if (left) return;
    let wait = 4000;
    try {
      const { pulls: all } = await call('GET', '/hob/pulls');
      if (left) return;
      const active = all.some((p) => p.state === 'running');
      wait = active ? 700 : 4000;
      const key = JSON.stringify(all);
      if (key !== pulls.dataset.key) {
        const ended = pulls.dataset.running === 'true' && !active;
        pulls.dataset.key = key;
        pulls.dataset.running = String(active);
        showPulls(all);
        if (ended) await refresh();
      }
    } catch { /* the banner says it */ }
    timer = setTimeout(poll, wait);
  }

  function showPulls(all) {
    pulls.replaceChildren(...all.map((p) => {
      const bar = h('progress', { 'aria-label': `Progress of ${p.name}`, max: p.total || null, value: p.total ? p.done : undefined });
      const end = { done: 'is here.', cancelled: 'was given up; what came so far is kept for another try.', failed: p.note && sentence(p.note) }[p.state];
      return h('div', { class: `card pull ${p.state}` }, h('h3', {}, p.name),
        p.state === 'running' ? [bar, h('p', { class: 'quiet' }, p.total ? `${bytes(p.done)} of ${bytes(p.total)}${p.rate ? `, ${bytes(p.rate)}/s` : ''}` : 'Asking for it …')] : h('p', { class: p.state === 'failed' ? 'notice failed' : 'quiet' }, p.state === 'failed' ? end : `${p.name} ${end}`),
        p.state === 'running'
          ? h('button', { type: 'button', class: 'button', onclick: () => call('DELETE', `/hob/pulls/${p.id}`).then(poll) }, 'Cancel')
          : iconButton('close', 'Dismiss', () => call('DELETE', `/hob/pulls/${p.id}`).then(poll)));
    }));
  }

  refresh().catch((e) => { if (e.status !== 0) here.replaceChildren(h('p', { class: 'notice failed' }, e.message)); });
  poll();
  return () => { left = true; clearTimeout(timer); };
}
