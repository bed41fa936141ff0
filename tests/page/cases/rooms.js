// Models and the machine.

import assert from 'node:assert/strict';
import { say, shot } from '../browser.js';
import { look } from '../look.js';

export async function models({ open, server }) {
  const page = await open();
  await page.goto(`${server.url}/#/models`);
  const card = page.locator('article.card').first();
  await card.waitFor();
  assert.match(await card.innerText(), /starter[\s\S]*135M parameters[\s\S]*Q4_1[\s\S]*98\.4 MB[\s\S]*8,192 tokens of context[\s\S]*apache-2\.0/i);
  await card.getByRole('button', { name: /^Load/ }).click();
  await card.getByText('loaded').waitFor();
  await card.getByRole('button', { name: /^Unload/ }).click();
  await card.getByRole('button', { name: /^Load/ }).waitFor();
  await page.getByLabel('Find a model').fill('llama-3.1-8b');
  await page.keyboard.press('Enter');
  await page.locator('.fit').waitFor({ timeout: 120_000 });
  assert.match(await page.locator('.fit').innerText(), /8\.?0?B parameters/i);
  await shot(page, 'models-fit');
  page.forgiven.push('400');
  await page.getByLabel('Find a model').fill('/etc/passwd');
  await page.keyboard.press('Enter');
  await page.locator('.verdict .notice.failed').waitFor();
}

export async function offline({ open, server }) {
  const page = await open();
  await page.getByText('No model is on this machine yet').waitFor();
  assert.match(await page.locator('.empty').innerText(), /--offline/);
  await shot(page, 'offline-empty');
  await page.goto(`${server.url}/#/models`);
  await page.getByText('opens no connection').waitFor();
  assert.equal(await page.locator('.find').count(), 0);
  const refused = await fetch(`${server.url}/hob/pulls`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"name": "starter"}' });
  assert.equal(refused.status, 403);
  assert.match(await refused.text(), /offline/);
}
offline.server = { empty: true, args: ['--offline'] };

export async function empty({ open }) {
  const page = await open();
  await page.getByText('No model is on this machine yet').waitFor();
  await page.getByRole('link', { name: 'Get a model' }).click();
  await page.getByText('None yet.').waitFor();
  assert.ok(await page.locator('.offer').count() > 0);
  assert.deepEqual(await look(page), []);
  await shot(page, 'models-empty');
}
empty.server = { empty: true };

export async function machine({ open, server }) {
  const page = await open();
  await say(page, 'Write a poem about rain.', { wait: false });
  await page.goto(`${server.url}/#/machine`);
  await page.locator('.plot svg').waitFor();
  await page.waitForFunction(() => /1 answering/.test(document.querySelector('.room').innerText));
  await page.waitForFunction(() => parseFloat(document.querySelector('.big').innerText) > 0);
  const text = await page.locator('.room').innerText();
  for (const part of ['Memory', 'Hob holds', 'planned', 'Processor', 'SmolLM2']) assert.ok(text.includes(part), `${part} is missing`);
  assert.deepEqual(await look(page), []);
}

/** Fetches the starter for real; to be named, as it needs a network. */
export async function pull({ open, server }) {
  const page = await open();
  await page.goto(`${server.url}/#/models`);
  await page.getByRole('button', { name: /^starter/ }).click();
  await page.getByRole('button', { name: 'Fetch it' }).click({ timeout: 120_000 });
  await page.locator('.pull progress').waitFor();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await page.locator('.pull.cancelled').waitFor();
  await page.getByRole('button', { name: 'Dismiss' }).click();
  await page.waitForFunction(() => !document.querySelector('.pull'));
  await page.getByRole('button', { name: /^starter/ }).click();
  await page.getByRole('button', { name: 'Fetch it' }).click({ timeout: 120_000 });
  await page.locator('.pull progress').waitFor();
  await page.waitForTimeout(1500);
  await shot(page, 'pull');
  await page.locator('.pull.done').waitFor({ timeout: 300_000 });
  await page.locator('article.card', { hasText: 'starter' }).waitFor();
  await page.locator('article.card').getByRole('button', { name: /^Delete/ }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByText('None yet.').waitFor();
}
pull.server = { empty: true };
pull.named = true;
