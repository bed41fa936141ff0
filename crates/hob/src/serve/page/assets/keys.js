// The keyboard: every shortcut, and the card that lists them.

import { dialog, h } from './dom.js';

const mac = /Mac|iP(hone|ad)/.test(navigator.platform);
const MOD = mac ? '⌘' : 'Ctrl';
const SINGLE = 'hob.keys';

const single = () => localStorage.getItem(SINGLE) !== 'off';
const typing = (e) => e.target.closest?.('input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]');
const busyElsewhere = () => document.querySelector('dialog[open], [popover]:popover-open');

/** What a key does: how it is written, what for, and the work. Those with `mod` also work while one types. */
const shortcuts = (hob) => [
  { keys: ['n'], alt: 'n', does: 'New chat', run: () => { hob.go('/'); hob.chat.focus(); } },
  { keys: ['/'], mod: 'k', does: 'Search all conversations', run: () => hob.list.focusSearch() },
  { keys: ['i'], does: 'Write a message', run: () => hob.chat.focus() },
  { keys: ['Escape'], does: 'Stop the answer', shown: 'Esc', run: () => hob.chat.stop() },
  { keys: ['e'], does: 'Edit your last message (also ↑ in an empty field)', run: () => hob.chat.editLast() },
  { keys: ['r'], does: 'Answer again', run: () => hob.chat.again() },
  { keys: ['c'], does: 'Copy the last answer', run: () => hob.chat.copyLast() },
  { keys: ['['], does: 'Previous version', run: () => hob.chat.turn(-1) },
  { keys: [']'], does: 'Next version', run: () => hob.chat.turn(1) },
  { keys: [','], does: 'Settings of this chat', run: () => hob.chat.settings() },
  { keys: ['m'], does: 'Models', run: () => hob.go('/models') },
  { keys: ['p'], does: 'Machine', run: () => hob.go('/machine') },
  { keys: ['?'], does: 'This list', run: () => showKeys(hob) },
];

/** Listens for as long as the page is open. */
export function bindKeys(hob) {
  const all = shortcuts(hob);
  document.addEventListener('keydown', (e) => {
    if (e.defaultPrevented || e.isComposing || busyElsewhere()) return;
    const held = mac ? e.metaKey : e.ctrlKey;
    const found = all.find((s) =>
      (s.mod && held && !e.altKey && e.key.toLowerCase() === s.mod)
      || (s.alt && e.altKey && !e.ctrlKey && !e.metaKey && e.code === `Key${s.alt.toUpperCase()}`)
      || (s.keys.includes(e.key) && !e.ctrlKey && !e.metaKey && !e.altKey
        && (e.key === 'Escape' ? !typing(e) || e.target.closest('.composer') : single() && !typing(e))));
    if (!found) return;
    if (found.run(e) !== false) e.preventDefault();
  });
}

/** The card of all shortcuts. */
export function showKeys(hob) {
  const key = (text) => h('kbd', {}, text);
  const rows = shortcuts(hob).map((s) => h('div', { class: 'key' }, h('dt', {}, s.does), h('dd', {},
    key(s.shown ?? s.keys[0]),
    s.mod ? [' or ', key(MOD), key(s.mod.toUpperCase())] : null,
    s.alt ? [' or ', key(mac ? '⌥' : 'Alt'), key(s.alt.toUpperCase())] : null)));
  rows.push(
    h('div', { class: 'key' }, h('dt', {}, 'Send'), h('dd', {}, key('Enter'))),
    h('div', { class: 'key' }, h('dt', {}, 'New line'), h('dd', {}, key('Shift'), key('Enter'))),
    h('div', { class: 'key' }, h('dt', {}, 'Through the list'), h('dd', {}, key('↑'), key('↓'))));
  const box = h('input', {
    type: 'checkbox', id: 'single-keys', checked: single(),
    onchange: (e) => localStorage.setItem(SINGLE, e.target.checked ? 'on' : 'off'),
  });
  dialog('Keyboard', h('div', {}, h('dl', { class: 'keys' }, rows),
    h('label', { class: 'check', for: 'single-keys' }, box, 'Single keys work outside of text fields')));
}
