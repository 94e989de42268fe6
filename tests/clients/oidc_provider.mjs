// A certified OpenID provider (the npm package oidc-provider) on loopback, and a person who uses it.
//
// Arguments: --access-ttl SECONDS, --code-ttl SECONDS (of device codes). Prints one line of JSON, {"issuer", "person"}: the
// provider, and an address that tells the person what to do, as GET requests:
//   /approve?user_code=C   types the code and agrees          /deny?user_code=C   types it and refuses
//   /browse?url=U          follows the address and agrees     /browse?url=U&deny=1  … and refuses
//   /down?status=503       the token endpoint answers so from now on; 0: it works again
//   /tokens?resource=R&count=N   access tokens for this resource, as many, each of its own; &strange=1: they name keys that
//                          nobody has
//   /keys?kids=A,B         starts anew with these signing keys: all are published, the first one signs
//   /state                 questions to the token endpoint by grant_type, refresh tokens that live, when its keys were asked
//                          for (in ms)
// The person is a real user agent to the provider: cookies, forms and redirects over HTTP.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const require = createRequire(path.join(process.env.TUNNEL_CLIENTS_DIR, 'package.json'));
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

// Standard output is one line, and read no further; the provider's notices belong to the log.
console.log = console.info = console.error;

const { values: options } = parseArgs({
  options: { 'access-ttl': { type: 'string', default: '3600' }, 'code-ttl': { type: 'string', default: '600' } },
});
const listen = (handler) => new Promise((resolve) => {
  const server = http.createServer(handler);
  server.listen(0, '127.0.0.1', () => resolve(server));
});
const base = (server) => `http://127.0.0.1:${server.address().port}`;

// The issuer's name holds its port, so the port comes first.
let serve;
const server = await listen((request, response) => serve(request, response));
const issuer = base(server);
const denied = new Set();
const questions = {};
const refreshTokens = new Set();
const keysAsked = [];
const keys = new Map();
let down = 0;
let provider;
let callback;

// Made when it is first named.
function key(kid) {
  if (!keys.has(kid)) {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    keys.set(kid, { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' });
  }
  return keys.get(kid);
}

const configuration = {
  clients: [{
    client_id: 'tunneld', token_endpoint_auth_method: 'none', application_type: 'native',
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'], redirect_uris: ['http://127.0.0.1/callback'],
  }],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: () => true,
  ttl: { DeviceCode: Number(options['code-ttl']), AccessToken: Number(options['access-ttl']), RefreshToken: 86400,
    Session: 3600, Interaction: 600, Grant: 86400, IdToken: 3600 },
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        scope: '', audience: resource, accessTokenTTL: Number(options['access-ttl']), accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
};

// What it has given out stays good: that is stored outside of it. Questions that are being answered end as they began.
function start(kids) {
  provider = new Provider(issuer, { ...configuration, jwks: { keys: kids.map(key) } });
  provider.on('refresh_token.saved', (token) => refreshTokens.add(token.jti));
  provider.on('server_error', (_, error) => console.error(error));
  provider.use(async (ctx, next) => {
    if (ctx.path === '/jwks') keysAsked.push(performance.now());
    await next();
    const grant = ctx.oidc?.params?.grant_type;
    if (ctx.path === '/token' && grant) questions[grant] = (questions[grant] ?? 0) + 1;
  });
  callback = provider.callback();
}
start(['first']);

// Whoever gets here agrees to what is asked, unless this person was told to refuse.
async function interact(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (denied.delete(params.state)) {
    return provider.interactionFinished(request, response, { error: 'access_denied' });
  }
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  grant.addOIDCScope((missingOIDCScope ?? ['openid', 'offline_access']).join(' '));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) {
    grant.addResourceScope(resource, scopes.join(' '));
  }
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

serve = (request, response) => {
  if (request.url.startsWith('/interaction/')) {
    return interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
  }
  if (request.url.startsWith('/token') && down !== 0) {
    questions.refused = (questions.refused ?? 0) + 1;
    return response.writeHead(down).end();
  }
  return callback(request, response);
};
// A user agent: it keeps cookies and follows redirects within the provider.
function agent() {
  const cookies = new Map();
  return async function visit(url, form) {
    for (;;) {
      const response = await fetch(url, {
        method: form ? 'POST' : 'GET', body: form && new URLSearchParams(form), redirect: 'manual',
        headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      });
      for (const cookie of response.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
        if (value === '') cookies.delete(name); else cookies.set(name, value);
      }
      const to = response.headers.get('location');
      if (!to) return { status: response.status, url: String(url), text: await response.text() };
      url = new URL(to, url);
      form = undefined;
    }
  };
}

const hidden = (page) => Object.fromEntries([...page.matchAll(/<input type="hidden" name="(\w+)" value="([^"]*)"/g)]
  .map(([, name, value]) => [name, value]));

async function type(code, agrees) {
  const visit = agent();
  const page = await visit(`${issuer}/device`);
  const confirm = await visit(`${issuer}/device`, { ...hidden(page.text), user_code: code });
  const answer = { ...hidden(confirm.text), user_code: code };
  const end = await visit(`${issuer}/device`, agrees ? { ...answer, confirm: 'yes' } : { ...answer, abort: 'yes' });
  return { status: end.status, text: end.text };
}

// As the token endpoint makes them, without a login for each.
async function tokens(resource, count) {
  const client = await provider.Client.find('tunneld');
  const info = configuration.features.resourceIndicators.getResourceServerInfo(undefined, resource);
  const resourceServer = new provider.ResourceServer(resource, info);
  return Promise.all(Array.from({ length: count }, () => {
    const token = new provider.AccessToken({ accountId: 'alice', client, gty: 'authorization_code', resourceServer });
    token.setAudience(info.audience);
    return token.save();
  }));
}

async function strangeTokens(resource, count) {
  const [good] = await tokens(resource, 1);
  const rest = good.slice(good.indexOf('.'));
  const head = () => JSON.stringify({ alg: 'RS256', typ: 'at+jwt', kid: randomUUID() });
  return Array.from({ length: count }, () => Buffer.from(head()).toString('base64url') + rest);
}

async function browse(url, agrees) {
  if (!agrees) denied.add(new URL(url).searchParams.get('state'));
  return agent()(url);
}

const person = await listen(async (request, response) => {
  const url = new URL(request.url, 'http://person');
  const asked = (name) => url.searchParams.get(name);
  const actions = {
    '/approve': () => type(asked('user_code'), true),
    '/deny': () => type(asked('user_code'), false),
    '/browse': () => browse(asked('url'), asked('deny') === null),
    '/tokens': async () => {
      const made = asked('strange') === null ? tokens : strangeTokens;
      return { tokens: await made(asked('resource'), Number(asked('count'))) };
    },
    '/keys': () => { start(asked('kids').split(',')); return {}; },
    '/down': () => { down = Number(asked('status')); return { down }; },
    '/state': async () => {
      const found = await Promise.all([...refreshTokens].map((token) => provider.RefreshToken.find(token)));
      const live = found.filter((token) => token?.isValid).length;
      return { questions, refresh_tokens: live, keys_asked: keysAsked };
    },
  };
  try {
    const body = await actions[url.pathname]();
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  } catch (error) {
    response.writeHead(500).end(String(error?.stack ?? error));
  }
});
process.stdout.write(`${JSON.stringify({ issuer, person: base(person) })}\n`);
// Whoever started it holds the other end: it ends with them.
process.stdin.on('end', () => process.exit(0)).resume();
