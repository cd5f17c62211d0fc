// What the steps need around them: the built server, a server for the client's files, and what went over the network.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { createInterface } from 'node:readline';

const KINDS = {
  '.css': 'text/css',
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.woff2': 'font/woff2',
};

/** Starts `allod serve --dev` on a free port; its address, and how it is stopped. */
export async function startServer(program, folder) {
  const names = ['SERVER_NAME', 'ALLOD_CONFIG', 'ALLOD_SOCKET', 'ALLOD_LOG'];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !names.includes(name)));
  const options = ['serve', '--dev', '--port', '0', '--data-dir', folder];
  const child = spawn(program, options, { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = once(child, 'exit');
  // Says on standard output where it answers, once it does.
  const lines = createInterface({ input: child.stdout });
  const [line] = await Promise.race([
    once(lines, 'line'),
    ended.then(() => Promise.reject(new Error('the server does not start'))),
  ]);
  const stop = async () => {
    child.kill('SIGTERM');
    const [status] = await ended;
    if (status !== 0) throw new Error(`the server ended with ${status}`);
  };
  return { url: line.trim().split(/\s+/).at(-1).replace(/\/$/, ''), stop };
}

/** Serves the built client, with the configuration that its operator would write: which server it is for. */
export async function serveClient(folder, serverUrl) {
  const config = { defaultHomeserver: 0, homeserverList: [serverUrl], allowCustomHomeservers: true };
  const site = createServer(async (request, response) => {
    let path = normalize(decodeURIComponent(new URL(request.url, 'http://site').pathname));
    // As the client's own example for a web server has it.
    if (path.endsWith('/olm.wasm')) path = '/olm.wasm';
    let body = path === '/config.json' ? JSON.stringify(config) : null;
    body ??= await readFile(join(folder, path)).catch(() => null);
    if (body === null) [path, body] = ['/index.html', await readFile(join(folder, 'index.html'))];
    response.writeHead(200, { 'content-type': KINDS[extname(path)] ?? 'application/octet-stream' });
    response.end(body);
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  return { url: `http://127.0.0.1:${site.address().port}`, stop: () => site.close() };
}

/** Writes down each answer of the server to what a browser asks. */
export function record(context, name, serverUrl, log) {
  context.on('response', async (response) => {
    const request = response.request();
    const url = new URL(request.url());
    if (url.origin !== serverUrl) return;
    const entry = { name, status: response.status(), method: request.method(), path: url.pathname + url.search };
    log.push(entry);
    if (entry.status >= 400) {
      const body = await response.json().catch(() => ({}));
      Object.assign(entry, { errcode: body.errcode, error: body.error });
    }
  });
  context.on('requestfailed', (request) => {
    const url = new URL(request.url());
    const reason = request.failure()?.errorText;
    // A page that is left gives its requests up.
    if (url.origin !== serverUrl || reason === 'net::ERR_ABORTED') return;
    log.push({ name, status: 0, method: request.method(), path: url.pathname, error: reason });
  });
}
