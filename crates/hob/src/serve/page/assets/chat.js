// A conversation: asking, the answer as it comes, stopping, versions.

import { bus, call, events, lost } from './api.js';
import { copy, h, icon, iconButton, menu, speak, toast } from './dom.js';
import { Composer } from './composer.js';
import { Message } from './message.js';
import { settingsPanel } from './settings.js';
import { bytes, whole } from './format.js';

/** Pixels from the end within which the view follows the answer. */
const NEAR = 120;

export class Chat {
  constructor(hob) {
    this.hob = hob;
    this.id = null;
    this.draft = {};
    this.shown = new Map();
    this.composer = new Composer(hob, this);
    this.title = h('h1', {}, 'New chat');
    this.turns = h('div', { class: 'turns' });
    this.scroll = h('div', { class: 'scroll' }, this.turns);
    this.latest = iconButton('down', 'To the end', () => this.toEnd(true), { class: 'icon-button latest', hidden: true });
    this.gear = iconButton('tune', 'Settings of this chat', () => this.settings());
    this.more = iconButton('more', 'More about this conversation', (e) => this.about(e.currentTarget), { 'aria-haspopup': 'menu' });
    this.view = h('div', { class: 'chat' },
      h('header', { class: 'top' },
        iconButton('menu', 'Open the list', () => hob.drawer(true), { class: 'icon-button narrow' }),
        this.title, this.gear, this.more),
      this.scroll, h('div', { class: 'dock' }, this.latest, this.composer.element));
    this.scroll.addEventListener('scroll', () => { this.latest.hidden = this.near(); }, { passive: true });
    this.turns.addEventListener('click', (e) => this.copyCode(e));
    bus.addEventListener('gone', () => this.detach());
  }

  /** Shows a conversation at its end or at a message, or the beginning of a new one. */
  async open(id, message = null) {
    this.detach();
    if (this.id !== id) {
      this.shown.clear();
      this.turns.replaceChildren();
    }
    this.id = id;
    this.conversation = null;
    this.messages = [];
    if (!this.view.isConnected) this.hob.main.replaceChildren(this.view);
    this.composer.load(id);
    if (id === null) {
      this.draft = {};
      this.show_();
    } else {
      this.view.setAttribute('aria-busy', 'true');
      try {
        await this.reload();
        this.toEnd(true);
        if (message !== null) await this.find(message);
      } catch (e) {
        this.failed(e);
      }
      this.view.removeAttribute('aria-busy');
    }
    if (matchMedia('(min-width: 48rem)').matches) this.focus();
  }

  /** Brings a message into view, with its branch where another is shown. */
  async find(message) {
    if (!this.shown.has(message)) {
      await call('POST', `/hob/messages/${message}/show`);
      await this.reload();
    }
    this.shown.get(message)?.element.scrollIntoView({ block: 'start' });
  }

  leave() {
    this.detach();
    this.composer.keep();
  }

  failed(e) {
    this.title.textContent = 'Not found';
    this.turns.replaceChildren(h('div', { class: 'empty' }, icon('hob'), h('h2', {}, e.message),
      h('p', {}, h('a', { href: '#/' }, 'Begin a new one'), '.')));
  }

  /** Reads the conversation, and follows its answer where one is being written. */
  async reload() {
    const id = this.id;
    const told = await call('GET', `/hob/conversations/${id}`);
    if (this.id !== id) return;
    this.conversation = told;
    this.messages = told.messages;
    this.show_();
    const last = this.messages.at(-1);
    if (last?.state === 'running') this.attach(last.id);
  }

  show_() {
    const title = this.conversation?.title || 'New chat';
    this.title.textContent = title;
    document.title = this.conversation ? `${title} · Hob` : 'Hob';
    this.more.hidden = this.id === null;
    this.composer.model(this.conversation?.model);
    this.view.classList.toggle('fresh', this.messages.length === 0);
    if (!this.messages.length) {
      this.shown.clear();
      this.turns.replaceChildren(this.empty());
      this.meter(null);
      return;
    }
    const kept = new Map();
    for (const m of this.messages) {
      let one = this.shown.get(m.id);
      if (!one) one = new Message(this, m);
      // What was whole stays as it is; only its versions may have changed.
      else if (one.message.state === 'running' || m.state === 'running') one.set(m);
      else if (String(one.message.siblings) !== String(m.siblings)) { one.message = m; one.controls(); }
      kept.set(m.id, one);
    }
    this.shown = kept;
    const elements = [...kept.values()].map((one) => one.element);
    // An element that is where it should be is not moved: that would take its focus away.
    elements.forEach((element, i) => { if (this.turns.children[i] !== element) this.turns.insertBefore(element, this.turns.children[i] ?? null); });
    while (this.turns.children.length > elements.length) this.turns.lastChild.remove();
    if (this.messages.at(-1).role === 'user') {
      this.turns.append(h('button', { type: 'button', class: 'button', onclick: () => this.again(this.messages.at(-1)?.id) }, icon('again'), 'Answer this'));
    }
    this.meter(this.messages.findLast((m) => m.stats)?.stats);
  }

  empty() {
    const { models, state } = this.hob;
    if (!models.length) {
      return h('div', { class: 'empty' }, icon('hob'), h('h2', {}, 'No model is on this machine yet'),
        h('p', {}, state.offline
          ? ['The server runs with ', h('code', {}, '--offline'), ' and fetches nothing. Start it without to get a model.']
          : 'A small one is 98 MB, and answers within a minute from now.'),
        h('a', { class: 'button primary', href: '#/models' }, icon('box'), 'Get a model'));
    }
    const model = models.find((m) => m.name === this.composer.select.value) ?? models[0];
    const facts = [model.parameters ? `${bytes(model.bytes)}` : null, model.quantization, model.context ? `${whole(model.context)} tokens of context` : null];
    return h('div', { class: 'empty' }, icon('hob'), h('h2', {}, 'What is on your mind?'),
      h('p', {}, model.alias ?? model.name, h('br'), h('span', { class: 'facts' }, facts.filter(Boolean).map((f) => h('span', {}, f)))),
      h('p', { class: 'quiet' }, state.lasting ? 'All of it stays on this machine.' : 'All of it stays in memory, and is gone when Hob ends.'));
  }

  /** Asks, in a new conversation where there is none. `parent` is the message that the question follows. */
  async ask(text, attachments, parent = this.messages.at(-1)?.id ?? null) {
    const model = this.composer.select.value;
    if (!model) { this.hob.go('/models'); return false; }
    await this.stop();
    if (this.id === null) {
      const made = await call('POST', '/hob/conversations', { model, settings: this.draft });
      this.id = made.id;
      this.composer.key = made.id;
      this.hob.quiet = true;
      location.hash = `/c/${made.id}`;
    }
    const last = this.messages.at(-1);
    const follows = parent !== null && last?.role === 'user' && last.id === parent ? last.parent : parent;
    await call('POST', `/hob/conversations/${this.id}/messages`, { parent: follows, text, attachments, model });
    await this.reload();
    this.toEnd(true);
    await this.hob.list.load();
    this.hob.list.mark(this.id);
    return true;
  }

  /** Another answer to the same question. */
  async again(message = this.messages.findLast((m) => m.role === 'assistant')?.id) {
    if (!message) return;
    await this.stop();
    await call('POST', `/hob/messages/${message}/again`, { model: this.composer.select.value });
    await this.reload();
    // The button that asked for it is gone while the answer is written.
    if (document.activeElement === document.body) this.focus();
    this.toEnd();
  }

  async show(message) {
    if (!message) return;
    await this.stop();
    await call('POST', `/hob/messages/${message}/show`);
    await this.reload();
    this.shown.get(message)?.element.querySelector('.versions button:not(:disabled)')?.focus();
    speak('Another version is shown');
  }

  /** The previous or next version of the last message that has several. */
  turn(by) {
    const m = this.messages.findLast((one) => one.siblings.length > 1);
    return m && this.show(m.siblings[m.siblings.indexOf(m.id) + by]);
  }

  /** Stops the answer that is being written; `false` where there is none. */
  stop() {
    if (!this.following) return false;
    const id = this.following;
    return call('POST', `/hob/messages/${id}/stop`).then(() => this.ended);
  }

  detach() {
    this.aborter?.abort();
    this.following = null;
    this.composer.running(false);
  }

  /** Follows an answer to its end. */
  attach(id) {
    this.detach();
    const aborter = new AbortController();
    this.aborter = aborter;
    this.following = id;
    this.composer.running(true);
    speak('Answering');
    this.ended = this.follow(id, aborter.signal);
  }

  async follow(id, signal) {
    let end = null;
    try {
      for await (const update of events(`/hob/messages/${id}/stream`, signal)) {
        if (update.end) { end = update.end; break; }
        const at = this.near();
        this.shown.get(id)?.take(update);
        if (update.stats) this.meter(update.stats);
        if (at) this.toEnd();
      }
    } catch (e) {
      if (signal.aborted) return;
      if (e.status === undefined) lost();
      else if (e.status !== 0) toast(e.message, 'wrong');
    }
    if (signal.aborted) return;
    this.detach();
    if (!end) return void lost();
    const at = this.near();
    this.messages = this.messages.map((m) => (m.id === id ? { ...end, siblings: m.siblings } : m));
    this.show_();
    if (at) this.toEnd();
    const words = end.text.split(/\s+/).length;
    speak(end.state === 'failed' ? `The answer broke off. ${end.note ?? ''}` : words < 80 ? end.text : `The answer has ${words} words.`);
    this.hob.list.load();
    // The first answer may have loaded its model.
    await this.hob.loadModels();
    this.composer.model(this.composer.select.value);
  }

  meter(stats) {
    this.composer.meter(stats);
  }

  near() {
    return this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < NEAR;
  }

  toEnd(always = false) {
    if (always || !this.latest.matches(':hover')) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  focus() {
    if (this.view.isConnected) this.composer.field.focus();
    else { this.hob.go(this.id === null ? '/' : `/c/${this.id}`); this.focusSoon(); }
  }

  focusSoon() {
    setTimeout(() => this.composer.field.focus(), 50);
  }

  editLast() {
    const m = this.messages.findLast((one) => one.role === 'user');
    if (m) this.shown.get(m.id)?.edit();
    return Boolean(m);
  }

  copyLast() {
    const m = this.messages.findLast((one) => one.role === 'assistant');
    if (m) copy(m.text, this.shown.get(m.id).element.querySelector('.copies'));
  }

  copyCode(e) {
    const button = e.target.closest('button.copy');
    if (button) copy(button.closest('figure').querySelector('code').textContent, button);
  }

  renamed({ title }) {
    if (title) { this.title.textContent = title; document.title = `${title} · Hob`; }
  }

  settings() {
    settingsPanel(this.hob, this.conversation?.settings ?? this.draft, async (settings) => {
      if (this.id === null) this.draft = settings;
      else {
        await call('PATCH', `/hob/conversations/${this.id}`, { settings });
        if (this.conversation) this.conversation.settings = settings;
      }
    });
  }

  about(button) {
    const c = { ...this.conversation, ...this.hob.list.all?.find((one) => one.id === this.id) };
    const { list } = this.hob;
    menu(button, [
      ['edit', 'Rename', () => list.rename(c)],
      ['pin', c.pinned ? 'Unpin' : 'Pin', () => list.change(c, { pinned: !c.pinned })],
      ['file', 'Save as Markdown', () => list.export(c, 'md')],
      ['file', 'Save as JSON', () => list.export(c, 'json')],
      ['trash', 'Delete', () => list.remove(c), 'danger'],
    ]);
  }
}
