// The browser, and what the page must not do in it.

import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { root } from './server.js';

const screens = path.join(root, 'target/page-screens');

export async function launch() {
  const args = ['--disable-gpu', '--force-color-profile=srgb'];
  if (process.getuid?.() === 0) args.push('--no-sandbox');
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args });
}

/** A page of the server's, watched: `faults` lists what it must not do. */
export async function open(browser, server, { phone = false, dark = false, ...more } = {}) {
  const context = await browser.newContext({
    viewport: phone ? { width: 360, height: 740 } : { width: 1280, height: 800 },
    hasTouch: phone, isMobile: phone, deviceScaleFactor: phone ? 2 : 1,
    colorScheme: dark ? 'dark' : 'light', reducedMotion: 'reduce', permissions: ['clipboard-read', 'clipboard-write'], ...more,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(Number(process.env.TIMEOUT ?? 30_000));
  page.faults = [];
  page.forgiven = [];
  const fault = (text) => { if (!page.forgiven.some((f) => text.includes(f))) page.faults.push(text); };
  page.on('console', (m) => { if (['error', 'warning'].includes(m.type())) fault(`console: ${m.text()}`); });
  page.on('pageerror', (e) => fault(`error: ${e.message}`));
  page.on('request', (r) => {
    const url = new URL(r.url());
    if (!['data:', 'blob:'].includes(url.protocol) && url.origin !== server.url) fault(`request to ${url.origin}`);
  });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`));
  });
  await page.goto(server.url);
  await page.locator('.composer, .room, dialog').first().waitFor();
  return page;
}

export async function shot(page, name) {
  fs.mkdirSync(screens, { recursive: true });
  await page.screenshot({ path: path.join(screens, `${name}.png`) });
}

/** Writes and sends, and waits for the answer's end unless told otherwise. */
export async function say(page, text, { wait = true } = {}) {
  const before = await page.locator('.answer').count();
  await page.getByRole('textbox', { name: 'Message' }).fill(text);
  await page.keyboard.press('Enter');
  await page.waitForFunction((n) => document.querySelectorAll('.answer').length > n, before);
  if (wait) await done(page);
}

export async function done(page) {
  await page.waitForFunction(() => {
    const last = [...document.querySelectorAll('.answer')].at(-1);
    return last && !last.classList.contains('running') && last.querySelector('footer .stats');
  });
}

/** A conversation that needs no model: imported. */
export async function write(server, ...turns) {
  const messages = turns.map((t, i) => ({
    id: i + 1, parent: i || null, role: i % 2 ? 'assistant' : 'user', state: 'done', created: Date.now(),
    ...(i % 2 ? { model: 'SmolLM2-135M-Instruct.Q4_1', stats: { prompt_tokens: 812, tokens: 214, ttft_ms: 180, tps: 61.2, context: 8192, cached_tokens: 640 } } : {}),
    ...(typeof t === 'string' ? { text: t } : t),
  }));
  const now = Date.now();
  const title = (typeof turns[0] === 'string' ? turns[0] : turns[0].text).slice(0, 50);
  const text = JSON.stringify({ hob: 1, conversations: [{ title, created: now, updated: now, messages }] });
  return (await server.ask('POST', '/hob/import', { text })).ids[0];
}
