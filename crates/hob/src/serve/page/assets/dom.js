// Elements, icons and small parts that every room uses. Text goes in as text; HTML comes from the server alone, sanitised.

const policy = globalThis.trustedTypes?.createPolicy('hob', { createHTML: (html) => html });

/** An element: properties that begin with `on` are listeners, `true` is an empty attribute, `null` and `false` none. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

/** An element of a drawing. */
export function s(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An icon of the sheet in index.html. */
export const icon = (name) =>
  s('svg', { class: 'icon', 'aria-hidden': 'true', focusable: 'false' }, s('use', { href: `#i-${name}` }));

/** A button that shows an icon and is called `name`. */
export const iconButton = (image, name, onclick, props = {}) =>
  h('button', { type: 'button', class: 'icon-button', 'aria-label': name, title: name, onclick, ...props }, icon(image));

/** What the server made of Markdown, as nodes. */
export function fragment(html) {
  const template = document.createElement('template');
  template.innerHTML = policy ? policy.createHTML(html) : html;
  return template.content;
}

/** Makes the children of `old` those of `next`, and touches only what differs: a selection in the rest stays. */
export function morph(old, next) {
  const nodes = [...next.childNodes];
  nodes.forEach((node, i) => {
    const was = old.childNodes[i];
    if (!was) old.append(node);
    else if (was.isEqualNode(node)) return;
    else if (was.nodeType === 3 && node.nodeType === 3) was.data = node.data;
    else if (was.nodeType === 1 && was.nodeName === node.nodeName && was.cloneNode().isEqualNode(node.cloneNode())) morph(was, node);
    else was.replaceWith(node);
  });
  while (old.childNodes.length > nodes.length) old.lastChild.remove();
}

/** Swaps the blocks of an answer from the given one on. */
export function swap(container, { from, html }) {
  html.forEach((block, i) => {
    const at = container.children[from + i];
    if (at) morph(at, fragment(block));
    else container.append(h('div', { class: 'block' }, fragment(block)));
  });
  while (container.children.length > from + html.length) container.lastChild.remove();
}

/** A short remark at the edge of the page. */
export function toast(text, kind = 'plain') {
  const box = h('p', { class: `toast ${kind}` }, text);
  document.getElementById('toasts').append(box);
  setTimeout(() => box.remove(), kind === 'wrong' ? 9000 : 3500);
}

/** Tells something to screen readers alone. */
export function speak(text) {
  document.getElementById('speaker').textContent = text;
}

/** A modal dialog with a heading; gives the dialog and closes what it was opened from back into focus. */
export function dialog(title, body, { kind = '', onclose } = {}) {
  const from = document.activeElement;
  const id = `d${Math.random().toString(36).slice(2)}`;
  const box = h('dialog', { class: `dialog ${kind}`, 'aria-labelledby': id },
    h('header', {}, h('h2', { id }, title), iconButton('close', 'Close', () => box.close())), body);
  box.addEventListener('click', (e) => { if (e.target === box) box.close(); });
  box.addEventListener('close', () => {
    box.remove();
    onclose?.();
    if (from?.isConnected) from.focus({ preventScroll: true });
  });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks before something that cannot be undone. */
export function confirm(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const yes = () => { answer = true; box.close(); };
    const box = dialog(title, h('div', { class: 'ask' }, h('p', {}, text), h('div', { class: 'row end' },
      h('button', { type: 'button', class: 'button', onclick: () => box.close() }, 'Keep'),
      h('button', { type: 'button', class: 'button danger', onclick: yes }, verb))),
    { kind: 'small', onclose: () => resolve(answer) });
    box.querySelector('.ask button').focus();
  });
}

/** A menu below a button: arrows move, Escape closes. */
export function menu(button, items) {
  const close = () => { box.hidePopover(); };
  const box = h('div', { class: 'menu', role: 'menu', popover: 'auto', 'aria-label': button.getAttribute('aria-label') },
    items.filter(Boolean).map(([image, text, action, kind]) => h('button', {
      type: 'button', role: 'menuitem', class: kind ?? null, tabindex: '-1',
      onclick: () => { close(); button.focus(); action(); },
    }, icon(image), text)));
  box.addEventListener('keydown', (e) => {
    const all = [...box.children];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0, End: all.length - 1 }[e.key];
    if (to !== undefined) { e.preventDefault(); all[to % all.length].focus(); }
    if (e.key === 'Escape' || e.key === 'Tab') { e.preventDefault(); e.stopPropagation(); close(); button.focus(); }
  });
  box.addEventListener('toggle', (e) => {
    button.setAttribute('aria-expanded', String(e.newState === 'open'));
    if (e.newState === 'closed') box.remove();
  });
  document.body.append(box);
  box.showPopover();
  const at = button.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  box.style.top = `${at.bottom + height + 8 > innerHeight ? Math.max(8, at.top - height - 4) : at.bottom + 4}px`;
  box.firstElementChild.focus();
}

/** Copies, and says so on the button. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure origin the old way is the only one.
    const area = h('textarea', { class: 'unseen', value: text });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  speak('Copied');
  button.classList.add('done');
  setTimeout(() => button.classList.remove('done'), 1600);
}

/** Lets the browser keep a text as a file. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
