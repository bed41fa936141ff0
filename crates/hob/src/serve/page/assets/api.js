// The server: calls, streams, and what happens when it is gone.

/** Tells `gone` and `back`. */
export const bus = new EventTarget();

/** What the server answered instead: one sentence, and the status (0 where there was no answer). */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const TOKEN = 'hob.token';
let askToken = async () => null;
let asking = null;
let gone = false;

/** Who asks the person for the server's token. */
export function onToken(ask) { askToken = ask; }

async function request(method, path, body, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: 'no-store' });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    lost();
    throw new Failure('The server does not answer.', 0);
  }
  if (response.status === 401) {
    asking ??= askToken(token !== null).finally(() => { asking = null; });
    const given = await asking;
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      return request(method, path, body, signal);
    }
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    const message = told?.error?.message ?? told?.error ?? `The server answered ${response.status}.`;
    throw new Failure(sentence(message), response.status);
  }
  return response;
}

/** Errors come without a capital and a full stop. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');

/** Calls, and gives the answer's JSON. */
export async function call(method, path, body, signal) {
  const response = await request(method, path, body, signal);
  return response.status === 204 ? null : response.json();
}

/** Calls, and gives the answer's text. */
export const text = async (path) => (await request('GET', path)).text();

/** Calls, and gives the answer's bytes. */
export const blob = async (path) => (await request('GET', path)).blob();

/** The events of a stream (text/event-stream), each a JSON value. */
export async function* events(path, signal) {
  const response = await request('GET', path, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split('\n').filter((l) => l.startsWith('data:')).map((l) => l.slice(5).trimStart()).join('\n');
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Notes that the server is gone, and asks until it is back. */
export function lost() {
  if (gone) return;
  gone = true;
  bus.dispatchEvent(new Event('gone'));
  let wait = 500;
  const again = async () => {
    try {
      const response = await fetch('/health', { cache: 'no-store' });
      if (!response.ok) throw new Error();
      gone = false;
      bus.dispatchEvent(new Event('back'));
    } catch {
      wait = Math.min(wait * 1.5, 5000);
      setTimeout(again, wait);
    }
  };
  setTimeout(again, wait);
}
