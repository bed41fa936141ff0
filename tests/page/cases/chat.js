// A conversation with a real model, end to end.

import assert from 'node:assert/strict';
import { done, say, shot } from '../browser.js';

const LONG = 'Write a very long story about a lighthouse, with many chapters.';

/** Settings that make answers short and the same each time. */
const calm = (page, most) => page.evaluate(async (most) => {
  const id = location.hash.split('/')[2];
  await fetch(`/hob/conversations/${id}`, { method: 'PATCH', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ settings: { temperature: 0, max_tokens: most } }) });
}, most);

async function begin(page, most = 24) {
  await page.keyboard.press(',');
  await page.getByLabel('Temperature', { exact: true }).fill('0');
  await page.getByLabel('Longest answer').fill(String(most));
  await page.getByRole('button', { name: 'Done' }).click();
}

/** Out of the field, so that single keys count. */
const away = (page) => page.locator('#main').evaluate((e) => e.focus());

export async function conversation({ open }) {
  const page = await open();
  await away(page);
  await begin(page, 48);
  await say(page, 'List the months of the year.');
  const answer = page.locator('.answer').last();
  assert.match(await answer.locator('.text').innerText(), /January/);
  assert.match(await answer.locator('.stats').innerText(), /\d+ tokens.*tokens\/s.*first after/s);
  assert.match(await page.locator('.gauge').innerText(), /\d+ \/ [\d,]+/);
  assert.match(await page.locator('#side .list').innerText(), /Today\s+List the months of the year\./i);
  // Reload keeps it.
  const text = await answer.locator('.text').innerText();
  await page.reload();
  await done(page);
  assert.equal(await page.locator('.answer .text').last().innerText(), text);
  // A second turn knows the first; the button copies.
  await say(page, 'Only the first of them.');
  assert.equal(await page.locator('.turn').count(), 4);
  await page.locator('.answer').last().getByRole('button', { name: 'Copy' }).click();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.ok(copied.length > 0);
}

export async function stop({ open }) {
  const page = await open();
  await say(page, LONG, { wait: false });
  await page.waitForFunction(() => document.querySelector('.answer .text')?.innerText.length > 60);
  assert.equal(await page.locator('.send').getAttribute('aria-label'), 'Stop');
  await page.keyboard.press('Escape');
  await done(page);
  const text = await page.locator('.answer .text').last().innerText();
  assert.match(await page.locator('.answer .notice').innerText(), /Stopped/);
  await page.waitForTimeout(700);
  assert.equal(await page.locator('.answer .text').last().innerText(), text, 'it goes on after the stop');
  await page.reload();
  await done(page);
  assert.equal(await page.locator('.answer .text').last().innerText(), text, 'what was said is lost');
  assert.equal(await page.locator('.send').getAttribute('aria-label'), 'Send');
}

export async function attach({ open, server }) {
  const page = await open();
  await say(page, LONG, { wait: false });
  await page.waitForFunction(() => document.querySelector('.answer .text')?.innerText.length > 40);
  await page.reload();
  await page.locator('.answer.running').waitFor();
  const before = (await page.locator('.answer .text').last().innerText()).length;
  assert.ok(before >= 40, 'what was said before is gone');
  await page.waitForFunction((n) => document.querySelector('.answer.running .text')?.innerText.length > n + 40, before);
  // Another room and back.
  await page.goto(`${server.url}/#/machine`);
  await page.locator('.plot svg').waitFor();
  await page.goBack();
  await page.locator('.answer.running').waitFor();
  // A second listener has the same.
  const other = await page.context().newPage();
  await other.goto(page.url());
  await other.locator('.answer.running').waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  await Promise.all([done(page), done(other)]);
  assert.equal(await page.locator('.answer .text').last().innerText(), await other.locator('.answer .text').last().innerText());
}

export async function branches({ open }) {
  const page = await open();
  await away(page);
  await begin(page, 16);
  await say(page, 'Name a colour.');
  const first = await page.locator('.answer .text').last().innerText();
  // Another answer to the same question.
  await page.getByRole('button', { name: 'Answer again' }).click();
  await page.locator('.answer .versions').waitFor();
  await done(page);
  assert.match(await page.locator('.answer .versions').innerText(), /2\/2/);
  // The question edited.
  await page.keyboard.press('ArrowUp');
  const field = page.getByRole('textbox', { name: 'Edit your message' });
  assert.equal(await field.inputValue(), 'Name a colour.');
  await field.fill('Name an animal.');
  await page.keyboard.press('Enter');
  await page.locator('.question .versions').waitFor();
  await done(page);
  assert.equal(await page.locator('.said').innerText(), 'Name an animal.');
  assert.equal(await page.locator('.answer .versions').count(), 0);
  await shot(page, 'branches');
  // Back, by the buttons and by keys.
  await page.locator('.question').getByRole('button', { name: 'Previous version' }).click();
  await page.waitForFunction(() => document.querySelector('.said').innerText === 'Name a colour.');
  await away(page);
  await page.keyboard.press('[');
  await page.waitForFunction(() => /1\/2/.test(document.querySelector('.answer .versions')?.innerText ?? ''));
  assert.equal(await page.locator('.answer .text').last().innerText(), first);
}

export async function settings({ open }) {
  const page = await open();
  await away(page);
  await page.keyboard.press(',');
  const dialog = page.getByRole('dialog', { name: 'Settings of this chat' });
  await dialog.getByLabel('System prompt').fill('You are a pirate.');
  await dialog.getByLabel('Temperature', { exact: true }).fill('0');
  await dialog.getByLabel('Longest answer').fill('12');
  await dialog.getByLabel('Seed').fill('7');
  await dialog.getByLabel('Top-p', { exact: true }).fill('0.7');
  await page.keyboard.press('Escape');
  await say(page, 'Hello.');
  await page.reload();
  await done(page);
  await away(page);
  await page.keyboard.press(',');
  assert.equal(await dialog.getByLabel('System prompt').inputValue(), 'You are a pirate.');
  assert.equal(await dialog.getByLabel('Seed').inputValue(), '7');
  assert.equal(await dialog.getByLabel('Top-p', { exact: true }).inputValue(), '0.7');
  assert.match(await page.locator('.answer .notice').innerText(), /most tokens/);
  await calm(page, 8);
}

export async function long({ open }) {
  const page = await open();
  await say(page, 'word '.repeat(9000), { wait: false });
  // More than the context holds: one sentence, with a capital, that says by how much.
  const notice = page.locator('.answer .notice.failed');
  await notice.waitFor();
  assert.match(await notice.innerText(), /^The text has \d+ tokens, \d+ more than the context.*\.$/s);
  const height = () => page.locator('.said').evaluate((e) => e.clientHeight);
  const before = await height();
  await page.getByRole('button', { name: 'Show all' }).click();
  assert.ok((await height()) > before * 3);
  await page.getByRole('button', { name: 'Show less' }).click();
  assert.equal(await height(), before);
}

export async function files({ open }) {
  const page = await open();
  await away(page);
  await begin(page, 8);
  const input = page.locator('.composer input[type=file]');
  await input.setInputFiles([
    { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('The password is walrus.\n') },
    { name: 'picture.png', mimeType: 'image/png', buffer: Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 1, 2, 0xff]) },
    { name: 'large.txt', mimeType: 'text/plain', buffer: Buffer.alloc(300 * 1024, 'a') },
  ]);
  await page.getByText('picture.png is no text').waitFor();
  await page.getByText('large.txt is too large').waitFor();
  assert.equal(await page.locator('.composer .chip').count(), 1);
  await say(page, 'What does the file say?');
  assert.match(await page.locator('.question .file summary').innerText(), /notes\.txt/);
  await page.locator('.question .file summary').click();
  assert.match(await page.locator('.question .file pre').innerText(), /walrus/);
  const tokens = await page.evaluate(async () => (await (await fetch(`/hob/conversations/${location.hash.split('/')[2]}`)).json()).messages[1].stats.prompt_tokens);
  assert.ok(tokens > 30, `the file is not in the prompt: ${tokens} tokens`);
}
