// The room of pictures, with a tiny model of chance.

import assert from 'node:assert/strict';
import { shot } from '../browser.js';
import { look } from '../look.js';

const fill = (page, name, value) => page.getByLabel(name, { exact: true }).fill(value);

export async function images({ open, server }) {
  const page = await open();
  await page.getByRole('link', { name: 'Images' }).click();
  await page.getByText('None yet.').waitFor();
  await fill(page, 'Prompt', 'a lighthouse at dawn');
  await fill(page, 'Steps', '3');
  await fill(page, 'Seed', '5');
  await page.getByRole('button', { name: 'Make it' }).click();
  const first = page.locator('.shot').first();
  await first.locator('img[src^="data:image/png"]').waitFor();
  assert.deepEqual(await look(page), []);
  await shot(page, 'images');

  // Its settings again, after others.
  await fill(page, 'Prompt', 'something else');
  await fill(page, 'Seed', '');
  await first.getByRole('button', { name: 'Use its settings' }).click();
  assert.equal(await page.getByLabel('Prompt', { exact: true }).inputValue(), 'a lighthouse at dawn');
  assert.equal(await page.getByLabel('Seed').inputValue(), '5');
  await first.locator('.see').click();
  await page.locator('dialog img[src^="data:image/png"]').waitFor();
  const saved = page.waitForEvent('download');
  await page.locator('dialog').getByRole('button', { name: 'Download' }).click();
  assert.equal((await saved).suggestedFilename(), 'hob-5.png');
  await page.keyboard.press('Escape');

  // From a picture; then one without end, seen after a reload, and stopped.
  const source = await (await fetch(`${server.url}/hob/images/1/picture.png`)).arrayBuffer();
  await page.getByText('Begin with a picture').click();
  await page.getByLabel('Picture', { exact: true }).setInputFiles({ name: 'a.png', mimeType: 'image/png', buffer: Buffer.from(source) });
  await page.locator('.given img').waitFor();
  await page.getByRole('button', { name: 'Make it' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.shot').length === 2);
  assert.equal((await server.ask('GET', '/hob/images')).pictures[0].recipe.init.strength, 0.75);
  await fill(page, 'Steps', '1000');
  await fill(page, 'Width', '128');
  await fill(page, 'Height', '128');
  page.forgiven.push('400');
  await page.getByRole('button', { name: 'Make it' }).click();
  await page.getByText(/step [1-9]\d* of/).waitFor();
  await page.reload();
  await page.getByText(/step [1-9]\d* of/).waitFor();
  await shot(page, 'images-painting');
  await page.getByRole('button', { name: 'Cancel' }).click();
  await page.locator('.pull').waitFor({ state: 'detached' });
  assert.equal(await page.locator('.shot').count(), 2);

  await page.locator('.shot').first().getByRole('button', { name: 'Delete' }).click();
  await page.locator('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.waitForFunction(() => document.querySelectorAll('.shot').length === 1);
  await page.getByRole('button', { name: 'Delete all' }).click();
  await page.locator('dialog').getByRole('button', { name: 'Delete all' }).click();
  await page.getByText('None yet.').waitFor();
  assert.ok(!server.bytes().includes('lighthouse'));
}
images.server = { picture: true };

export async function models_of_pictures({ open, server }) {
  const page = await open();
  await page.goto(`${server.url}/#/models`);
  const card = page.getByRole('article', { name: 'tiny-sd' });
  await card.waitFor();
  assert.match(await card.innerText(), /Stable Diffusion 1[\s\S]*pictures from words[\s\S]*parameters[\s\S]*F16|F32/);
  assert.match(await card.innerText(), /512 × 512: [\d.]+ [MG]B, fits[\s\S]*1024 × 1024: [\d.]+ [MG]B/);
  await card.getByRole('button', { name: 'Load tiny-sd' }).click();
  await card.getByText('loaded', { exact: true }).waitFor();
  assert.deepEqual(await look(page), []);
  await shot(page, 'models-pictures');
  await card.getByRole('button', { name: 'Unload tiny-sd' }).click();
  await card.getByRole('button', { name: 'Load tiny-sd' }).waitFor();
  await card.getByRole('link', { name: 'Make pictures' }).click();
  await page.waitForFunction(() => document.getElementById('img-model')?.value === 'tiny-sd');
}
models_of_pictures.server = { picture: true };

export async function images_none({ open, server }) {
  const page = await open({ phone: true, dark: true });
  await page.goto(`${server.url}/#/images`);
  await page.getByText('There is no picture model').waitFor();
  assert.deepEqual(await look(page), []);
  await shot(page, 'images-none-phone');
}
images_none.server = { empty: true };
