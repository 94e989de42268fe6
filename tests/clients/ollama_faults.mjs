// What ollama-js makes of servers that fail: each model once by each API, streamed and not, all at the same time.
// usage: ollama_faults.mjs BASE_URL TOKEN|- MODELS LIMIT_S   (MODELS is a JSON list)
// Prints a line of JSON for each.
import { createRequire } from "node:module";

const require = createRequire(process.env.TUNNEL_CLIENTS_DIR + "/");
const { Ollama } = require("ollama");
const [host, token, models, limit] = process.argv.slice(2);
const headers = token === "-" ? {} : { Authorization: `Bearer ${token}` };
const client = new Ollama({ host, headers });
const messages = [{ role: "user", content: "Say hi" }];
// It warns of a broken line and goes on; what counts is how it ends.
console.warn = () => {};

async function ask(api, model, stream, row) {
  const answer = await (api === "chat"
    ? client.chat({ model, messages, stream })
    : client.generate({ model, prompt: "Say hi", stream }));
  for await (const part of stream ? answer : [answer]) {
    row.text += (api === "chat" ? part.message?.content : part.response) ?? "";
    row.finished ||= Boolean(part.done);
  }
}

async function cell(api, model, stream) {
  const row = { api, model, stream, outcome: "answer", text: "", finished: false };
  const began = performance.now();
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve("late"), limit * 1000);
  });
  try {
    if ((await Promise.race([ask(api, model, stream, row), late])) === "late") row.outcome = "hang";
  } catch (error) {
    // In a stream it raises plain errors of its own; a TypeError is fetch's.
    const own = error.name === "ResponseError" || error.constructor === Error;
    row.outcome = "error";
    row.kind = own ? "own" : error instanceof TypeError ? "transport" : "other";
    row.error = `${error.constructor.name}: ${error.message}`;
  }
  clearTimeout(timer);
  row.ms = Math.round(performance.now() - began);
  console.log(JSON.stringify(row));
}

const cells = [];
for (const model of JSON.parse(models))
  for (const api of ["chat", "generate"]) for (const stream of [false, true]) cells.push(cell(api, model, stream));
await Promise.all(cells);
// A request that hangs keeps no process alive.
process.exit(0);
