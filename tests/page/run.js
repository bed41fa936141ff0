// Runs the cases, each with a server and a browser context of its own.

import { readdirSync } from 'node:fs';
import { launch, open, shot } from './browser.js';
import { Server } from './server.js';

const wanted = process.argv.slice(2);
const folder = new URL('./cases/', import.meta.url);
const cases = [];
for (const file of readdirSync(folder).sort()) {
  for (const [name, run] of Object.entries(await import(new URL(file, folder)))) cases.push([name, run]);
}

const browser = await launch();
let failed = 0;
for (const [name, run] of cases) {
  if (wanted.length ? !wanted.some((w) => name.startsWith(w)) : run.named) continue;
  const start = Date.now();
  const server = new Server(run.server);
  const pages = [];
  try {
    await server.start();
    await run({
      server,
      open: async (how) => { const page = await open(browser, server, how); pages.push(page); return page; },
    });
    const faults = pages.flatMap((p) => p.faults);
    if (faults.length) throw new Error(faults.join('\n'));
    console.log(`ok      ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (e) {
    failed += 1;
    console.log(`FAILED  ${name}\n${String(e.stack ?? e).split('\n').slice(0, 14).map((l) => `        ${l}`).join('\n')}`);
    for (const fault of pages.flatMap((p) => p.faults)) console.log(`        ${fault}`);
    for (const [i, page] of pages.entries()) await shot(page, `failed-${name}-${i}`).catch(() => {});
  } finally {
    for (const page of pages) await page.context().close().catch(() => {});
    await server.end();
  }
}
await browser.close();
console.log(failed ? `${failed} failed` : 'all passed');
process.exitCode = failed ? 1 : 0;
