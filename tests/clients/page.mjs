// A page on an address that the daemon does not know, in a real Chromium, tries every route in every way that pages have.
// Prints one JSON object: attempts, readable (answers whose content the page saw), sockets (WebSockets that opened), and
// control_reads: the same page from an origin that may read did read, so the refusals are the daemon's.
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';

const require = createRequire(path.join(process.env.TUNNEL_CLIENTS_DIR, 'package.json'));
const { chromium } = require('playwright-core');

const { control, gateway } = JSON.parse(fs.readFileSync(process.argv[2]));
const server = http.createServer((request, response) => {
  response.setHeader('content-type', 'text/html');
  response.end('<!doctype html><title>page</title>');
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const port = server.address().port;
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'page-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

// Runs in the page.
async function attack({ control, gateway, hosts }) {
  let attempts = 0, readable = 0, sockets = 0;
  const details = [];
  const limited = (promise) => Promise.race([promise, new Promise((_, no) => setTimeout(() => no('late'), 5000))]);
  for (const { port, routes } of [control, gateway]) {
    for (const { method, path } of routes) {
      for (const host of hosts) {
        const url = `http://${host}:${port}${path}`;
        const body = method === 'GET' ? undefined : '{"command":"QUIT","token":"x"}';
        const kinds = [
          { method, body },
          { method, body, headers: body && { 'content-type': 'application/json' } },
          { method, body, credentials: 'include' },
          { method: ['GET', 'POST'].includes(method) ? method : 'POST', body: method === 'GET' ? undefined : '{}', mode: 'no-cors' },
        ];
        for (const kind of kinds) {
          attempts++;
          try {
            const answer = await limited(fetch(url, kind));
            const text = await answer.text();
            if (text.length > 0 || (answer.type !== 'opaque' && answer.ok)) { readable++; details.push(`${method} ${url} ${answer.type} ${text.slice(0, 80)}`); }
          } catch { /* refused, which is what should happen */ }
        }
        attempts++;
        await limited(new Promise((done) => {
          const image = new Image();
          image.onload = () => { readable++; details.push(`image ${url}`); done(); };
          image.onerror = done;
          image.src = url;
        })).catch(() => {});
        attempts++;
        const frame = document.createElement('iframe');
        frame.name = `f${attempts}`;
        document.body.append(frame);
        const form = document.createElement('form');
        Object.assign(form, { action: url, method: method === 'GET' ? 'GET' : 'POST', target: frame.name, enctype: 'text/plain' });
        const field = document.createElement('input');
        Object.assign(field, { name: '{"token":"', value: '"}' });
        form.append(field);
        document.body.append(form);
        const loaded = limited(new Promise((done) => { frame.onload = done; })).catch(() => {});
        form.submit();
        await loaded;
        try {
          if (frame.contentDocument?.body?.innerText) { readable++; details.push(`form ${url}`); }
        } catch { /* another origin's frame */ }
        frame.remove();
      }
    }
    for (const host of hosts) {
      attempts++;
      await limited(new Promise((done) => {
        const socket = new WebSocket(`ws://${host}:${port}/ws`);
        socket.onopen = () => { sockets++; details.push(`socket ${port}`); socket.close(); done(); };
        socket.onerror = done;
      })).catch(() => {});
    }
  }
  return { attempts, readable, sockets, details: details.slice(0, 10) };
}

const page = await context.newPage();
// By address: `http://localhost:*` may read, `http://127.0.0.1:*` is not in the list.
await page.goto(`http://127.0.0.1:${port}/`);
const result = await page.evaluate(attack, { control, gateway, hosts: ['localhost', '127.0.0.1'] });
await page.goto(`http://localhost:${port}/`);
result.control_reads = await page.evaluate(async (port) => {
  const answer = await fetch(`http://localhost:${port}/api/health`);
  return (await answer.json()).status ? 1 : 0;
}, control.port);
console.log(JSON.stringify(result));
await context.close();
server.close();
server.closeAllConnections();
fs.rmSync(profile, { recursive: true, force: true });
process.exit(0);
