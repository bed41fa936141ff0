// Serves the page's files from the disk, and hands all else to a running server.

import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { root } from './server.js';

const target = new URL(process.argv[2] ?? 'http://127.0.0.1:8421');
const port = Number(process.argv[3] ?? 8422);
const assets = path.join(root, 'crates/hob/src/serve/page/assets');
const kinds = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.html': 'text/html' };

http.createServer((request, response) => {
  const name = request.url === '/' ? 'index.html' : /^\/assets\/[^/]+\/([a-z]+\.[a-z]+)$/.exec(request.url)?.[1];
  const file = name && path.join(assets, name);
  if (file && fs.existsSync(file)) {
    response.writeHead(200, { 'Content-Type': kinds[path.extname(file)], 'Cache-Control': 'no-store' });
    response.end(fs.readFileSync(file));
    return;
  }
  const headers = { ...request.headers, host: target.host };
  if (headers.origin) headers.origin = target.origin;
  const onward = http.request({ host: target.hostname, port: target.port, path: request.url, method: request.method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  onward.on('error', () => response.destroy());
  response.on('close', () => onward.destroy());
  request.pipe(onward);
}).listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`));
