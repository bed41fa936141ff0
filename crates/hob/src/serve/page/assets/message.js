// One message: what is said, thought and called, its versions, and what can be done with it.

import { sentence } from './api.js';
import { copy, fragment, h, icon, iconButton, swap } from './dom.js';
import { bytes, duration, rate, whole } from './format.js';

const DOING = {
  loading: 'Loading the model', reading: 'Reading', thinking: 'Thinking', writing: 'Writing',
};

/** Characters of a question beyond which it is cut off. */
const LONG = 1800;

/** Why an answer is not whole. */
const ENDED = {
  stopped: 'Stopped.', cut: 'The answer reached the most tokens it may have, or the end of the context.', failed: 'The answer broke off.',
};

const blocks = (html) => html.map((block) => h('div', { class: 'block' }, fragment(block)));

/** The element of a message and what changes it. */
export class Message {
  constructor(chat, message) {
    this.chat = chat;
    this.body = h('div', { class: 'body' });
    this.foot = h('footer', {});
    const own = message.role === 'user';
    this.element = h('article', { class: `turn ${own ? 'question' : 'answer'}`, tabindex: '-1', 'data-id': message.id }, this.body, this.foot);
    this.set(message);
  }

  /** Shows the message as the server has it. */
  set(message) {
    this.message = message;
    const own = message.role === 'user';
    this.element.setAttribute('aria-label', own ? 'Your message' : `Answer of ${message.model ?? 'the model'}`);
    this.element.classList.toggle('running', message.state === 'running');
    if (own) this.question();
    else this.answer();
    this.controls();
  }

  question() {
    const m = this.message;
    // A long one is cut off, so that its answer is near.
    const long = m.text.length > LONG || m.text.split('\n').length > 24;
    const said = h('div', { class: long ? 'said long' : 'said' }, m.text);
    const all = h('button', { type: 'button', class: 'button', 'aria-expanded': 'false', onclick: () => {
      const cut = said.classList.toggle('long');
      all.textContent = cut ? 'Show all' : 'Show less';
      all.setAttribute('aria-expanded', String(!cut));
    } }, 'Show all');
    this.body.replaceChildren(
      ...(m.text ? [said] : []), ...(long ? [all] : []),
      ...(m.attachments.length ? [h('ul', { class: 'files' }, m.attachments.map((f) => h('li', {},
        h('details', { class: 'file' }, h('summary', {}, icon('file'), f.name, h('span', { class: 'quiet' }, bytes(new Blob([f.text]).size))),
          h('pre', { tabindex: '0', 'aria-label': f.name }, f.text)))))] : []));
  }

  answer() {
    const m = this.message;
    this.thought = h('div', { class: 'prose blocks' }, blocks(m.thought));
    this.thinking = h('summary', {}, 'Reasoning');
    this.fold = h('details', { class: 'thought', hidden: m.thought.length === 0, open: this.fold?.open }, this.thinking, this.thought);
    this.text = h('div', { class: 'prose blocks text' }, blocks(m.html));
    this.tools = h('div', { class: 'tools' });
    this.doing = h('p', { class: 'doing', hidden: m.state !== 'running' }, icon('hob'), h('span', {}, 'Beginning'));
    this.showTools(m.tools);
    const note = m.state === 'running' || m.state === 'done' ? null : [ENDED[m.state], m.note && sentence(m.note)].filter((t, i) => t && !(i === 0 && m.note && m.state === 'failed')).join(' ');
    this.body.replaceChildren(this.fold, this.text, this.tools, this.doing,
      ...(note ? [h('p', { class: `notice ${m.state}` }, note)] : []));
  }

  showTools(tools) {
    this.tools.replaceChildren(...tools.map((t) => h('details', { class: 'tool' },
      h('summary', {}, icon('tune'), 'Calls ', h('code', {}, t.name)), h('pre', { tabindex: '0', 'aria-label': `Arguments of ${t.name}` }, pretty(t.arguments)))));
  }

  /** Takes in what has come of a running answer. */
  take(update) {
    if (update.thought) {
      swap(this.thought, update.thought);
      this.fold.hidden = this.thought.children.length === 0;
    }
    if (update.text) swap(this.text, update.text);
    if (update.tools) this.showTools(update.tools);
    if (update.doing) {
      const line = DOING[update.doing] ?? '';
      this.doing.lastChild.textContent = update.doing === 'writing' && update.tps ? `${rate(update.tps)} tokens/s` : line;
      this.doing.hidden = false;
      this.thinking.textContent = update.doing === 'thinking' ? 'Reasoning …' : 'Reasoning';
    }
  }

  /** Versions, buttons, speeds. */
  controls() {
    const m = this.message;
    const { siblings } = m;
    const at = siblings.indexOf(m.id);
    const versions = siblings.length > 1 ? h('div', { class: 'versions', role: 'group', 'aria-label': 'Versions' },
      iconButton('left', 'Previous version', () => this.chat.show(siblings[at - 1]), { disabled: at === 0 }),
      h('span', {}, h('span', { class: 'unseen' }, 'Version '), `${at + 1}/${siblings.length}`),
      iconButton('right', 'Next version', () => this.chat.show(siblings[at + 1]), { disabled: at === siblings.length - 1 })) : null;
    const copied = iconButton('copy', 'Copy', (e) => copy(m.text, e.currentTarget), { class: 'icon-button copies' });
    if (m.role === 'user') {
      this.foot.replaceChildren(...[versions, copied, iconButton('edit', 'Edit', () => this.edit())].filter(Boolean));
      return;
    }
    if (m.state === 'running') return this.foot.replaceChildren();
    const t = m.stats;
    const facts = [m.model];
    if (t?.tokens) facts.push(`${whole(t.tokens)} tokens`);
    if (t?.tps) facts.push(`${rate(t.tps)} tokens/s`);
    if (t?.ttft_ms) facts.push(`first after ${duration(t.ttft_ms)}`);
    const cached = t?.cached_tokens ? `, ${whole(t.cached_tokens)} of them known from before` : '';
    this.foot.replaceChildren(...[versions, copied,
      iconButton('again', 'Answer again', () => this.chat.again(m.id)),
      h('p', { class: 'stats', title: t ? `${whole(t.prompt_tokens)} tokens read${cached}` : null }, facts.filter(Boolean).map((f) => h('span', {}, f)))].filter(Boolean));
    return undefined;
  }

  /** A field in place of the question; sending makes a new version beside the old one. */
  edit() {
    const m = this.message;
    const close = (focus = true) => {
      this.element.classList.remove('editing');
      this.set(this.message);
      if (focus) this.chat.focus();
    };
    const send = () => {
      if (!field.value.trim() && !m.attachments.length) return;
      this.chat.ask(field.value, m.attachments, m.parent);
      close();
    };
    const size = () => { field.style.height = 'auto'; field.style.height = `${field.scrollHeight + 2}px`; };
    const field = h('textarea', {
      'aria-label': 'Edit your message', rows: 1, value: m.text, oninput: size,
      onkeydown: (e) => {
        if (e.isComposing) return;
        if (e.key === 'Escape') { e.preventDefault(); e.stopPropagation(); close(); }
        if (e.key === 'Enter' && !e.shiftKey) { e.preventDefault(); send(); }
      },
    });
    this.element.classList.add('editing');
    this.body.replaceChildren(field);
    this.foot.replaceChildren(
      h('p', { class: 'quiet' }, 'The old version stays beside the new one.'),
      h('button', { type: 'button', class: 'button', onclick: () => close() }, 'Cancel'),
      h('button', { type: 'button', class: 'button primary', onclick: send }, 'Send'));
    size();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

function pretty(json) {
  try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; }
}
