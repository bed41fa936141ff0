// What a hostile answer may not do, and who may look.

import assert from 'node:assert/strict';
import { say, write } from '../browser.js';

const HOSTILE = [
  '<script>window.hacked = 1</script>', '<img src=x onerror="window.hacked = 1">', '<svg onload="window.hacked = 1">',
  '[click](javascript:window.hacked=1)', '![pixel](https://evil.example/pixel.png)', '<iframe src="https://evil.example"></iframe>',
  '<style>body { display: none }</style>', '<a href="javascript:window.hacked=1">x</a>', '```html\n</code></pre><script>window.hacked = 1</script>\n```',
  '<math><mtext><style><img src=x onerror=window.hacked=1></style></mtext></math>', '[local](/hob/conversations)', '<base href="https://evil.example/">',
].join('\n\n');

export async function hostile({ open, server }) {
  const id = await write(server, `<img src=x onerror="window.hacked = 1"> ${HOSTILE}`, {
    text: HOSTILE, reasoning: HOSTILE, tools: [{ name: '<img src=x onerror=alert(1)>', arguments: HOSTILE }],
    attachments: [], model: '<script>window.hacked = 1</script>',
  });
  const page = await open();
  await page.goto(`${server.url}/#/c/${id}`);
  await page.locator('.answer .prose').last().waitFor();
  await page.keyboard.press('Control+k');
  await page.keyboard.type('hacked');
  await page.locator('.hits a').waitFor();
  await page.waitForTimeout(300);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator('.turns script, .turns iframe, .turns img, .turns style, .turns base').count(), 0);
  assert.ok((await page.locator('.said').innerText()).includes('onerror'), 'a question is shown as it was written');
  for (const link of await page.locator('.turns a').all()) {
    assert.match(await link.getAttribute('href'), /^https:\/\//);
    assert.match(await link.getAttribute('rel'), /noopener/);
  }
}

export async function token({ open, server }) {
  const page = await open();
  await page.getByRole('dialog', { name: 'This server wants its token' }).waitFor();
  page.faults.length = 0;
  page.forgiven.push('401');
  await page.getByRole('textbox', { name: 'Token' }).fill('wrong');
  await page.keyboard.press('Enter');
  await page.getByText('That is not the token').waitFor();
  await page.getByRole('textbox', { name: 'Token' }).fill('right-one');
  await page.keyboard.press('Enter');
  await page.locator('.composer select option').first().waitFor({ state: 'attached' });
  assert.equal((await fetch(`${server.url}/hob/state`)).status, 401);
  await page.reload();
  await page.locator('.composer select option').first().waitFor({ state: 'attached' });
  assert.equal(await page.getByRole('dialog').count(), 0);
}
token.server = { args: ['--token', 'right-one'] };

export async function gone({ open, server }) {
  await write(server, 'Before', 'The server was there.');
  const page = await open();
  page.forgiven.push('ERR_CONNECTION_REFUSED', 'ERR_CONNECTION_RESET', 'ERR_EMPTY_RESPONSE', 'ERR_INCOMPLETE_CHUNKED_ENCODING');
  await page.getByRole('link', { name: 'Before' }).click();
  await page.locator('.answer').waitFor();
  await server.stop('SIGKILL');
  await page.getByRole('textbox', { name: 'Message' }).fill('Are you there?');
  await page.keyboard.press('Enter');
  await page.locator('#banner', { hasText: 'The server is gone' }).waitFor();
  assert.equal(await page.getByRole('textbox', { name: 'Message' }).inputValue(), 'Are you there?');
  await server.start();
  await page.getByText('The server is back.').waitFor();
  assert.ok(await page.locator('#banner').isHidden());
  assert.match(await page.locator('.answer').innerText(), /was there/);
}

export async function crash({ open, server }) {
  const page = await open();
  page.forgiven.push('ERR_CONNECTION_REFUSED', 'ERR_CONNECTION_RESET', 'ERR_EMPTY_RESPONSE', 'ERR_INCOMPLETE_CHUNKED_ENCODING');
  await say(page, 'Write a very long story about a lighthouse.', { wait: false });
  await page.waitForFunction(() => document.querySelector('.answer .text')?.innerText.length > 20);
  await page.waitForTimeout(1200); // what is said is saved once a second
  assert.ok(await page.locator('.answer.running').count(), 'the answer ended before the server could');
  await server.stop('SIGKILL');
  await page.locator('#banner', { hasText: 'The server is gone' }).waitFor();
  await server.start();
  await page.getByText('The server is back.').waitFor();
  await page.locator('.answer .notice.failed', { hasText: 'Hob ended while this was written' }).waitFor();
  assert.ok((await page.locator('.answer .text').innerText()).length > 20, 'what was said is lost');
  // A draft outlives a reload.
  await page.getByRole('textbox', { name: 'Message' }).fill('half a thou');
  await page.reload();
  await page.locator('.answer').waitFor();
  assert.equal(await page.getByRole('textbox', { name: 'Message' }).inputValue(), 'half a thou');
}
