// A server with an empty home of its own, which holds the test models by links.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const binary = process.env.HOB ?? path.join(root, 'target/debug/hob');
const models = path.join(root, 'target/test-models');

export const MODEL = 'SmolLM2-135M-Instruct.Q4_1';

export class Server {
  constructor({ empty = false, picture = false, args = [] } = {}) {
    this.home = fs.mkdtempSync(path.join(os.tmpdir(), 'hob-page-'));
    this.args = args;
    fs.mkdirSync(path.join(this.home, 'models'));
    if (picture) execFileSync('python3', [path.join(root, 'tests/clients/picture.py'), path.join(this.home, 'models/tiny-sd')]);
    if (!empty) {
      const file = `${MODEL}.gguf`;
      fs.symlinkSync(fs.realpathSync(path.join(models, file)), path.join(this.home, 'models', file));
    }
  }

  /** Starts, on the port of the last time where there was one. */
  async start() {
    const env = {
      ...process.env, HOB_HOME: this.home, HF_HOME: path.join(this.home, 'hf'), HF_HUB_CACHE: '', HUGGINGFACE_HUB_CACHE: '',
      OLLAMA_MODELS: path.join(this.home, 'ollama'), HOME: this.home,
    };
    // One thread: with more, a quick machine has said everything before a case can stop it.
    const args = ['serve', '--threads', '1', '--port', String(this.port ?? 0), ...this.args];
    this.process = spawn(binary, args, { env });
    this.said = '';
    this.process.stderr.on('data', (d) => { this.said += d; });
    await new Promise((resolve, reject) => {
      this.process.stdout.on('data', (d) => {
        this.said += d;
        const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(this.said);
        if (found) { this.port = Number(found[1]); resolve(); }
      });
      this.process.on('error', reject);
      this.process.on('exit', () => reject(new Error(`the server ended: ${this.said}`)));
    });
    this.url = `http://127.0.0.1:${this.port}`;
    return this;
  }

  async stop(signal = 'SIGTERM') {
    if (this.process?.exitCode !== null) return;
    const ended = once(this.process, 'exit');
    this.process.kill(signal);
    await ended;
  }

  async end() {
    await this.stop('SIGKILL');
    fs.rmSync(this.home, { recursive: true, force: true });
  }

  async ask(method, at, body) {
    const response = await fetch(this.url + at, {
      method, headers: body ? { 'Content-Type': 'application/json' } : {}, body: body && JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${method} ${at}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** Bytes of the conversations' files. */
  bytes() {
    return Buffer.concat(['', '-wal', '-shm'].map((s) => path.join(this.home, `conversations.sqlite${s}`))
      .filter((f) => fs.existsSync(f)).map((f) => fs.readFileSync(f)));
  }
}
