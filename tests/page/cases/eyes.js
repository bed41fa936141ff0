// How it looks, and whether everyone can use it: names, contrast, widths, keys; with screenshots to look at.

import assert from 'node:assert/strict';
import { shot, write } from '../browser.js';
import { look } from '../look.js';

const ANSWER = `Rust keeps memory safe **without** a collector. Three ideas carry it:

1. *Ownership*: each value has one owner.
2. *Borrowing*: \`&T\` or \`&mut T\`, never both.
3. *Lifetimes*: references end before what they point to.

\`\`\`rust
/// The longest word, by reference.
fn longest<'a>(words: &[&'a str]) -> Option<&'a str> {
    words.iter().copied().max_by_key(|w| w.chars().count()) // no copy
}

fn main() {
    let words = ["hob", "hearth", "ember"];
    println!("{:?}, {}", longest(&words), 42);
}
\`\`\`

| kind | many readers | one writer |
|------|:------------:|-----------:|
| \`&T\` | yes | 0 |
| \`&mut T\` | no | 1 |

> [!NOTE]
> The compiler checks all of it; nothing is left to run time.

Read more in [the book](https://doc.rust-lang.org/book/), and see ![the crab](https://rustacean.net/crab.png).`;

const LONG = `A long word: ${'unbreakable'.repeat(20)}\n\n\`\`\`\n${'x'.repeat(300)}\n\`\`\`\n\n| ${'column | '.repeat(12)}\n|${'---|'.repeat(12)}\n| ${'value | '.repeat(12)}\n\n\`${'inline_code_'.repeat(20)}\`\n\nhttps://example.org/${'path/'.repeat(40)}`;

async function fill(server) {
  const now = Date.now();
  const day = 864e5;
  const past = (title, days, pinned = false) => ({ title, pinned, created: now - days * day, updated: now - days * day, messages: [] });
  const text = JSON.stringify({ hob: 1, conversations: [past('Plan for the garden', 1), past('Sourdough, step by step', 1), past('What is a monad, really?', 3), past('Letter to the landlord', 12), past('House rules', 40, true)] });
  await server.ask('POST', '/hob/import', { text });
  return write(server, { text: 'How does Rust keep memory safe? I come from Python.', attachments: [{ name: 'main.py', text: 'print("hello")\n' }] }, {
    text: ANSWER, reasoning: 'The person knows Python, so *ownership* is the new part. A short example will do.',
    tools: [{ name: 'search_docs', arguments: '{"query": "ownership", "limit": 3}' }],
  }, 'Thanks! And what about cycles?', 'Use `Rc` and `Weak`: a `Weak` does not keep its target alive.');
}

/** Every state in one theme and size. */
const looks = (name, how) => async ({ open, server }) => {
  const id = await fill(server);
  const page = await open(how);
  const check = async (what) => {
    await page.waitForTimeout(150);
    await shot(page, `${what}-${name}`);
    assert.deepEqual(await look(page), [], what);
  };
  await check('new');
  await page.goto(`${server.url}/#/c/${id}`);
  await page.locator('.answer').last().waitFor();
  await check('chat-end');
  await page.locator('.scroll').evaluate((e) => { e.scrollTop = 0; });
  await page.locator('.thought:visible summary').click();
  await check('chat');
  if (how.phone) {
    await page.getByRole('button', { name: 'Open the list' }).click();
    await check('list');
    await page.locator('#shade').click({ position: { x: 350, y: 300 } });
  }
  await page.getByRole('button', { name: 'Settings of this chat' }).click();
  await check('settings');
  await page.keyboard.press('Escape');
  await page.goto(`${server.url}/#/models`);
  await page.locator('article.card').first().waitFor();
  await check('models');
  await page.goto(`${server.url}/#/machine`);
  await page.locator('.plot svg').waitFor();
  await check('machine');
  const long = await write(server, LONG, LONG);
  await page.goto(`${server.url}/#/c/${long}`);
  await page.locator('.answer').last().waitFor();
  await check('long');
};

export const light = looks('light', {});
export const dark = looks('dark', { dark: true });
export const phone = looks('phone', { phone: true });
export const phoneDark = looks('phone-dark', { phone: true, dark: true });

/** Everything by keys alone: no pointer is ever used. */
export async function keyboard({ open, server }) {
  await write(server, 'One', 'First.');
  await write(server, 'Two', 'Second.');
  const page = await open();
  const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent);
  assert.equal(await focused(), 'Message');
  await page.keyboard.press('Control+k');
  assert.equal(await focused(), 'Search all conversations');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  assert.equal(await focused(), 'One');
  await page.keyboard.press('Enter');
  await page.locator('.answer', { hasText: 'First.' }).waitFor();
  await page.waitForFunction(() => document.activeElement.id === 'message');
  await page.locator('.top h1').waitFor();
  // The card of shortcuts opens outside of fields only, and gives the focus back.
  await page.keyboard.press('?');
  assert.equal(await page.getByRole('dialog').count(), 0);
  await page.getByRole('textbox', { name: 'Message' }).fill('');
  await page.keyboard.press('Shift+Tab');
  const before = await focused();
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
  await shot(page, 'keys');
  assert.deepEqual(await look(page), []);
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.querySelector('dialog'));
  assert.equal(await focused(), before);
  await page.keyboard.press('e');
  assert.equal(await focused(), 'Edit your message');
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => document.activeElement.id === 'message');
  // A menu: arrows move, Escape closes and gives the focus back.
  await page.keyboard.press('Control+k');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Tab');
  assert.equal(await focused(), 'More about Two');
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Rename');
  await page.keyboard.press('ArrowUp');
  assert.equal(await focused(), 'Delete');
  await page.keyboard.press('Escape');
  assert.equal(await focused(), 'More about Two');
  // Each stop of Tab through the page can be seen.
  await page.keyboard.press('Alt+n');
  const seen = new Set();
  for (let i = 0; i < 40; i += 1) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const e = document.activeElement;
      if (e === document.body) return null;
      const style = getComputedStyle(e);
      const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
      const box = e.closest('.composer') && e.tagName === 'TEXTAREA' ? getComputedStyle(e.closest('.composer')).boxShadow !== 'none' : false;
      return { name: e.getAttribute('aria-label') ?? e.textContent.trim(), seen: ring || box };
    });
    if (!at) continue;
    assert.ok(at.seen, `no focus to be seen on ${at.name}`);
    seen.add(at.name);
  }
  for (const name of ['New chat', 'Search all conversations', 'Models', 'Machine', 'Settings of this chat', 'Message', 'Model']) assert.ok(seen.has(name), `Tab never reaches ${name}`);
}
