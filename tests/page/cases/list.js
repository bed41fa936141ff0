// The list: search, names, pins, deletion for real, export and import.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { shot, write } from '../browser.js';
import { MODEL } from '../server.js';

export async function search({ open, server }) {
  await write(server, 'How do bees find home?', 'They read the **sun**, and polarised light.');
  await write(server, 'Bread without yeast', 'Use baking soda; a *quixotic* idea.');
  const page = await open();
  await page.keyboard.press('Control+k');
  await page.keyboard.type('uixot');
  await page.locator('.hits a').waitFor();
  assert.equal(await page.locator('.hits a').count(), 1);
  assert.equal(await page.locator('.hits mark').innerText(), 'uixot');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Bread without yeast' }).waitFor();
  // What was found is brought into view, though another branch was shown.
  const id = await write(server, 'Long talk', 'A zephyr blows.', 'And then?', 'Nothing. '.repeat(900));
  const told = (await (await fetch(`${server.url}/hob/conversations/${id}`)).json()).messages;
  await server.ask('POST', `/hob/conversations/${id}/messages`, { parent: null, text: 'Another branch', model: MODEL });
  await page.keyboard.press('Control+k');
  await page.keyboard.type('zephyr');
  await page.locator('.hits a', { hasText: 'zephyr' }).waitFor();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.locator(`[data-id="${told[1].id}"].answer`).waitFor();
  await page.waitForFunction((at) => {
    const { top } = document.querySelector(`[data-id="${at}"].answer`).getBoundingClientRect();
    return top > 0 && top < innerHeight / 2;
  }, told[1].id);
  await page.keyboard.press('Control+k');
  await page.keyboard.type('nothing like this');
  await page.getByText('Nothing found').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('.list section').waitFor();
}

export async function erase({ open, server }) {
  const secret = 'quixotic-blunderbuss';
  await write(server, `Tell me of the ${secret}`, `The ${secret} was never found. `.repeat(50));
  await write(server, 'A plain one', 'Plain.');
  assert.ok(server.bytes().includes(secret));
  const page = await open();
  await page.getByRole('link', { name: /blunderbuss/ }).click();
  await page.locator('.answer').waitFor();
  await page.getByRole('button', { name: 'More about this conversation' }).click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByText('Deleted.').waitFor();
  assert.ok(!server.bytes().includes(secret), 'the text is still in the file');
  assert.ok(server.bytes().includes('A plain one'));
  assert.equal(await page.locator('.list a').count(), 1);
  await page.getByRole('button', { name: 'More about all conversations' }).click();
  await page.getByRole('menuitem', { name: 'Delete all' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete all' }).click();
  await page.getByText('Conversations appear here').waitFor();
  assert.ok(!server.bytes().includes('A plain one'));
}

export async function names({ open, server }) {
  await write(server, 'First', 'One.');
  await write(server, 'Second', 'Two.');
  const page = await open();
  await page.locator('.list li').last().hover();
  await page.getByRole('button', { name: 'More about First' }).click();
  await page.getByRole('menuitem', { name: 'Pin' }).click();
  await page.getByRole('heading', { name: 'Pinned' }).waitFor();
  assert.equal(await page.locator('.list a').first().innerText(), 'First');
  await page.getByRole('button', { name: 'More about First' }).click();
  await page.getByRole('menuitem', { name: 'Rename' }).click();
  await page.keyboard.type('A better name');
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: 'A better name' }).waitFor();
  await page.reload();
  await page.getByRole('link', { name: 'A better name' }).waitFor();
}

export async function exchange({ open, server }) {
  await write(server, 'What is 2 + 2?', 'It is **4**.');
  const page = await open();
  await page.getByRole('link', { name: 'What is 2' }).click();
  await page.locator('.answer').waitFor();
  const take = async (item) => {
    await page.getByRole('button', { name: 'More about this conversation' }).click();
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('menuitem', { name: item }).click()]);
    return [download.suggestedFilename(), fs.readFileSync(await download.path(), 'utf8')];
  };
  const [name, markdown] = await take('Save as Markdown');
  assert.equal(name, 'What-is-2-2.md');
  assert.match(markdown, /^# What is 2 \+ 2\?\n\n## You\n\nWhat is 2/);
  const [, json] = await take('Save as JSON');
  const file = path.join(server.home, 'export.json');
  fs.writeFileSync(file, json);
  await server.ask('DELETE', '/hob/conversations');
  await page.getByRole('button', { name: 'More about all conversations' }).click();
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.getByRole('menuitem', { name: 'Import from JSON' }).click()]);
  await chooser.setFiles(file);
  await page.getByText('One conversation is imported.').waitFor();
  await page.locator('.answer strong', { hasText: '4' }).waitFor();
}

export async function damaged({ open, server }) {
  await server.stop();
  // Its log would repair it.
  for (const suffix of ['-wal', '-shm']) fs.rmSync(path.join(server.home, `conversations.sqlite${suffix}`), { force: true });
  fs.writeFileSync(path.join(server.home, 'conversations.sqlite'), 'this is not a database at all '.repeat(300));
  await server.start();
  const page = await open();
  await page.locator('#banner', { hasText: 'damaged' }).waitFor();
  await write(server, 'Still here?', 'Yes, in memory.');
  await page.reload();
  await page.getByRole('link', { name: 'Still here?' }).click();
  await page.getByText('Yes, in memory.').waitFor();
  await shot(page, 'damaged');
}

