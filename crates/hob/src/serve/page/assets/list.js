// The list of conversations: by day, searched, named, pinned, deleted; and the way to the other rooms.

import { call, text } from './api.js';
import { confirm, dialog, h, icon, iconButton, menu, save, toast } from './dom.js';
import { day, fileName } from './format.js';
import { showKeys } from './keys.js';

const THEMES = [['auto', 'As the system'], ['light', 'Light'], ['dark', 'Dark']];

export class List {
  constructor(hob, side) {
    this.hob = hob;
    this.current = null;
    this.all = null;
    this.search = h('input', {
      type: 'search', id: 'search', placeholder: 'Search', 'aria-label': 'Search all conversations', autocomplete: 'off',
      spellcheck: 'false', oninput: () => this.find(),
    });
    this.results = h('nav', { class: 'list', 'aria-label': 'Conversations' });
    this.found = h('p', { class: 'unseen', role: 'status' });
    this.rooms = h('nav', { class: 'rooms', 'aria-label': 'Rooms' },
      h('a', { href: '#/images', 'data-room': 'images' }, icon('image'), 'Images'),
      h('a', { href: '#/models', 'data-room': 'models' }, icon('box'), 'Models'),
      h('a', { href: '#/machine', 'data-room': 'machine' }, icon('chip'), 'Machine'));
    this.theme = iconButton('auto', 'Theme', () => this.nextTheme());
    side.append(
      h('header', {}, h('a', { class: 'brand', href: '#/', 'aria-label': 'Hob, new chat' }, icon('hob'), 'Hob'),
        iconButton('close', 'Close the list', () => hob.drawer(false), { class: 'icon-button narrow' })),
      h('a', { class: 'button new', href: '#/', onclick: () => hob.chat.focusSoon() }, icon('plus'), 'New chat'),
      h('div', { class: 'search' }, icon('search'), this.search),
      this.found, this.results,
      h('footer', {}, this.rooms, h('div', { class: 'row' }, this.theme,
        iconButton('keys', 'Keyboard shortcuts', () => showKeys(hob)),
        iconButton('more', 'More about all conversations', (e) => this.more(e.currentTarget), { 'aria-haspopup': 'menu' }))));
    side.addEventListener('keydown', (e) => this.arrows(e));
    this.showTheme(document.documentElement.dataset.theme);
  }

  async load() {
    this.all = (await call('GET', '/hob/conversations')).conversations;
    if (!this.search.value.trim()) this.show();
  }

  mark(id, room) {
    this.current = id;
    for (const a of this.results.querySelectorAll('a')) {
      if (Number(a.dataset.id) === id) a.setAttribute('aria-current', 'page');
      else a.removeAttribute('aria-current');
    }
    for (const a of this.rooms.children) {
      if (a.dataset.room === room) a.setAttribute('aria-current', 'page');
      else a.removeAttribute('aria-current');
    }
  }

  show() {
    if (!this.all.length) {
      this.results.replaceChildren(h('p', { class: 'quiet' }, 'Conversations appear here. They stay on this machine.'));
      return;
    }
    const groups = new Map();
    for (const c of this.all) {
      const name = c.pinned ? 'Pinned' : day(c.updated);
      groups.set(name, [...(groups.get(name) ?? []), c]);
    }
    const focused = this.results.contains(document.activeElement) && document.activeElement.closest('li')?.firstElementChild.dataset.id;
    this.results.replaceChildren(...[...groups].map(([name, items]) =>
      h('section', {}, h('h2', {}, name), h('ul', {}, items.map((c) => this.item(c))))));
    this.mark(this.current);
    if (focused) this.results.querySelector(`a[data-id="${focused}"]`)?.focus();
  }

  item(c) {
    const title = c.title || 'New chat';
    const more = iconButton('more', `More about ${title}`, (e) => this.about(c, e.currentTarget), {
      class: 'icon-button more', 'aria-haspopup': 'menu',
    });
    return h('li', {}, h('a', { href: `#/c/${c.id}`, 'data-id': c.id }, title), more);
  }

  about(c, button) {
    menu(button, [
      ['edit', 'Rename', () => this.rename(c)],
      ['pin', c.pinned ? 'Unpin' : 'Pin', () => this.change(c, { pinned: !c.pinned })],
      ['file', 'Save as Markdown', () => this.export(c, 'md')],
      ['file', 'Save as JSON', () => this.export(c, 'json')],
      ['trash', 'Delete', () => this.remove(c), 'danger'],
    ]);
  }

  async change(c, change) {
    await call('PATCH', `/hob/conversations/${c.id}`, change);
    await this.load();
    if (this.current === c.id) this.hob.chat.renamed(change);
  }

  rename(c) {
    const field = h('input', { value: c.title, maxlength: 120, required: true, 'aria-label': 'Name' });
    const form = h('form', {
      class: 'ask',
      onsubmit: (e) => { e.preventDefault(); box.close(); this.change(c, { title: field.value }); },
    }, field, h('div', { class: 'row end' }, h('button', { class: 'button primary' }, 'Rename')));
    const box = dialog('Rename', form, { kind: 'small' });
    field.select();
  }

  async export(c, kind) {
    const body = await text(`/hob/conversations/${c.id}/export.${kind}`);
    save(`${fileName(c.title)}.${kind}`, kind === 'md' ? 'text/markdown' : 'application/json', body);
  }

  async remove(c) {
    const sure = await confirm('Delete this conversation?', `“${c.title || 'New chat'}” is erased from this machine. It cannot be brought back.`, 'Delete');
    if (!sure) return;
    await call('DELETE', `/hob/conversations/${c.id}`);
    if (this.current === c.id) this.hob.go('/');
    await this.load();
    toast('Deleted.');
  }

  more(button) {
    menu(button, [
      ['file', 'Save all as JSON', async () => save('hob-conversations.json', 'application/json', await text('/hob/export'))],
      ['plus', 'Import from JSON', () => this.import()],
      ['trash', 'Delete all', () => this.removeAll(), 'danger'],
    ]);
  }

  import() {
    const field = h('input', {
      type: 'file', accept: '.json,application/json',
      onchange: async () => {
        const ids = (await call('POST', '/hob/import', { text: await field.files[0].text() })).ids;
        await this.load();
        toast(ids.length === 1 ? 'One conversation is imported.' : `${ids.length} conversations are imported.`);
        if (ids.length === 1) this.hob.go(`/c/${ids[0]}`);
      },
    });
    field.click();
  }

  async removeAll() {
    if (!this.all.length) return toast('There is nothing to delete.');
    const sure = await confirm('Delete all conversations?', `All ${this.all.length} are erased from this machine. They cannot be brought back.`, 'Delete all');
    if (!sure) return undefined;
    await call('DELETE', '/hob/conversations');
    this.hob.go('/');
    await this.load();
    return toast('All conversations are deleted.');
  }

  focusSearch() {
    this.hob.drawer(true);
    this.search.focus();
    this.search.select();
  }

  /** Searches while one types, and shows only the answer to the last question. */
  async find() {
    clearTimeout(this.soon);
    const query = this.search.value.trim();
    if (!query) {
      this.found.textContent = '';
      return this.show();
    }
    this.soon = setTimeout(async () => {
      const { found } = await call('GET', `/hob/conversations?q=${encodeURIComponent(query)}`);
      if (this.search.value.trim() !== query) return;
      this.found.textContent = `${found.length} found`;
      this.results.replaceChildren(found.length
        ? h('ul', { class: 'hits' }, found.map((hit) => h('li', {}, h('a', { href: `#/c/${hit.conversation}${hit.message ? `/${hit.message}` : ''}`, 'data-id': hit.conversation },
          h('span', { class: 'title' }, hit.title || 'New chat'),
          h('span', { class: 'excerpt' }, hit.excerpt.map((p) => (p.hit ? h('mark', {}, p.text) : p.text)))))))
        : h('p', { class: 'quiet' }, 'Nothing found. Try fewer letters of a word.'));
      this.mark(this.current);
    }, 120);
    return undefined;
  }

  arrows(e) {
    if (e.key === 'Escape' && e.target === this.search) {
      this.search.value = '';
      this.find();
      this.hob.chat.focus();
      e.preventDefault();
    }
    if (e.key !== 'ArrowDown' && e.key !== 'ArrowUp') return;
    const links = [...this.results.querySelectorAll('a')];
    const at = links.indexOf(document.activeElement);
    if (at < 0 && e.target !== this.search) return;
    e.preventDefault();
    const to = at + (e.key === 'ArrowDown' ? 1 : -1);
    (links[to] ?? (to < 0 ? this.search : links.at(-1)))?.focus();
  }

  nextTheme() {
    const names = THEMES.map((t) => t[0]);
    this.showTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
  }

  showTheme(name) {
    const [theme, text] = THEMES.find((t) => t[0] === name) ?? THEMES[0];
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem('hob.theme', theme); } catch { /* it holds until the page is left */ }
    this.theme.replaceChildren(icon(theme));
    this.theme.setAttribute('aria-label', `Theme: ${text}`);
    this.theme.title = `Theme: ${text}`;
  }
}
