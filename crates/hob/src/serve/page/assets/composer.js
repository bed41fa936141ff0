// Where one writes: the field, text files beside it, the model, and how full the context is.

import { h, icon, iconButton, toast } from './dom.js';
import { bytes, whole } from './format.js';

/** Bytes of one file, and of all together. */
const LIMITS = { one: 256 * 1024, all: 1024 * 1024 };
const LAST = 'hob.model';

export class Composer {
  constructor(hob, chat) {
    Object.assign(this, { hob, chat, files: [], key: null });
    this.field = h('textarea', {
      id: 'message', rows: 1, placeholder: 'Write a message', 'aria-label': 'Message', enterkeyhint: 'send', autocomplete: 'off',
      oninput: () => this.changed(), onkeydown: (e) => this.typed(e), onpaste: (e) => this.pasted(e),
    });
    this.chips = h('ul', { class: 'files', 'aria-label': 'Attached files', hidden: true });
    this.select = h('select', { 'aria-label': 'Model', onchange: () => this.chosen() });
    this.fill = h('span', { class: 'fill' });
    this.gauge = h('p', { class: 'gauge', hidden: true }, h('span', { class: 'bar', 'aria-hidden': 'true' }, this.fill), h('span', {}));
    this.button = h('button', { type: 'submit', class: 'send' }, icon('send'));
    this.picker = h('input', { type: 'file', multiple: true, hidden: true, tabindex: '-1', 'aria-label': 'Files to attach', onchange: () => { this.add(this.picker.files); this.picker.value = ''; } });
    this.element = h('form', {
      class: 'composer', onsubmit: (e) => { e.preventDefault(); if (this.busy && !this.filled()) this.chat.stop(); else this.send(); },
      ondragover: (e) => { e.preventDefault(); this.element.classList.add('over'); },
      ondragleave: () => this.element.classList.remove('over'),
      ondrop: (e) => { e.preventDefault(); this.element.classList.remove('over'); this.add(e.dataTransfer.files); },
    }, this.chips, this.field, h('div', { class: 'row' },
      iconButton('clip', 'Attach text files', () => this.picker.click()), this.picker, this.select, this.gauge, this.button));
    this.running(false);
  }

  filled() {
    return this.field.value.trim() !== '' || this.files.length > 0;
  }

  /** The button sends, or stops while an answer is written. */
  running(busy) {
    this.busy = busy;
    const stops = busy && !this.filled();
    this.button.replaceChildren(icon(stops ? 'stop' : 'send'));
    this.button.setAttribute('aria-label', stops ? 'Stop' : 'Send');
    this.button.title = stops ? 'Stop (Esc)' : 'Send (Enter)';
    this.button.disabled = !stops && !this.filled();
    this.element.classList.toggle('busy', busy);
  }

  changed() {
    this.field.style.height = 'auto';
    this.field.style.height = `${this.field.scrollHeight}px`;
    this.running(this.busy);
  }

  typed(e) {
    if (e.isComposing) return;
    // On a phone the key makes a new line, and the button sends.
    const touch = matchMedia('(pointer: coarse) and (max-width: 48rem)').matches;
    if (e.key === 'Enter' && !e.shiftKey && !touch) { e.preventDefault(); this.send(); }
    if (e.key === 'ArrowUp' && !this.filled() && this.chat.editLast()) e.preventDefault();
  }

  async send() {
    if (!this.filled() || this.sending) return;
    this.sending = true;
    const [text, files] = [this.field.value, this.files];
    this.put('', []);
    this.keep();
    try {
      if (!(await this.chat.ask(text, files))) this.put(text, files);
    } catch (e) {
      this.put(text, files);
      if (e.status !== 0) toast(e.message, 'wrong');
    } finally {
      this.sending = false;
    }
  }

  put(text, files) {
    this.field.value = text;
    this.files = files;
    this.showFiles();
    this.changed();
  }

  /** What was being written stays with its conversation while the tab is open. */
  keep() {
    const key = `hob.draft.${this.key ?? 'new'}`;
    try {
      if (this.field.value) sessionStorage.setItem(key, this.field.value);
      else sessionStorage.removeItem(key);
    } catch { /* it is not kept */ }
  }

  load(id) {
    this.key = id;
    let text = '';
    try { text = sessionStorage.getItem(`hob.draft.${id ?? 'new'}`) ?? ''; } catch { /* nothing was kept */ }
    this.put(text, []);
  }

  model(name) {
    const { models } = this.hob;
    const last = localStorage.getItem(LAST);
    const known = [name, last].find((n) => models.some((m) => m.name === n));
    // With nothing said: one that is loaded, else one that was made to talk.
    const loaded = models.find((m) => m.loaded) ?? models.find((m) => /instruct|chat|\bit\b/i.test(m.name)) ?? models[0];
    this.select.replaceChildren(...models.map((m) => h('option', { value: m.name }, `${m.alias ?? m.name}${m.loaded ? ' •' : ''}`)));
    if (name && !models.some((m) => m.name === name) && models.length) {
      this.select.prepend(h('option', { value: name, disabled: true }, `${name} (not here any more)`));
    }
    this.select.hidden = models.length === 0;
    this.select.value = known ?? loaded?.name ?? '';
  }

  chosen() {
    localStorage.setItem(LAST, this.select.value);
    if (!this.chat.messages.length) this.chat.show_();
  }

  /** How full the context is after what was last said. */
  meter(stats) {
    this.gauge.hidden = !stats?.context;
    if (this.gauge.hidden) return;
    const used = stats.prompt_tokens + stats.tokens;
    const share = Math.min(1, used / stats.context);
    this.fill.style.width = `${Math.max(2, share * 100)}%`;
    this.gauge.classList.toggle('full', share > 0.85);
    this.gauge.lastChild.textContent = `${whole(used)} / ${whole(stats.context)}`;
    this.gauge.title = `${whole(used)} of ${whole(stats.context)} tokens of context are used`;
    this.gauge.setAttribute('aria-label', this.gauge.title);
    this.gauge.setAttribute('role', 'img');
  }

  pasted(e) {
    if (e.clipboardData?.files.length) { e.preventDefault(); this.add(e.clipboardData.files); }
  }

  async add(list) {
    // A copy: the field that they come from is emptied meanwhile.
    for (const file of [...list]) {
      const sum = this.files.reduce((n, f) => n + f.text.length, 0);
      if (file.size > LIMITS.one || sum + file.size > LIMITS.all) {
        toast(`${file.name} is too large: a file may have ${bytes(LIMITS.one)}, all together ${bytes(LIMITS.all)}.`, 'wrong');
        continue;
      }
      try {
        const text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
        if (text.includes('\0')) throw new Error();
        this.files = [...this.files, { name: file.name, text }];
      } catch {
        toast(`${file.name} is no text. Only text files can be attached.`, 'wrong');
      }
    }
    this.showFiles();
    this.changed();
    this.field.focus();
  }

  showFiles() {
    this.chips.hidden = this.files.length === 0;
    this.chips.replaceChildren(...this.files.map((f, i) => h('li', { class: 'chip' }, icon('file'), h('span', {}, f.name), h('span', { class: 'quiet' }, bytes(f.text.length)),
      iconButton('close', `Remove ${f.name}`, () => { this.files = this.files.filter((_, at) => at !== i); this.showFiles(); this.changed(); this.field.focus(); }))));
  }
}
