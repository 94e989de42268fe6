// What openai-js makes of servers that fail: each model once by each API, streamed and not, all at the same time.
// usage: openai_faults.mjs BASE_URL TOKEN|- MODELS LIMIT_S   (BASE_URL ends in /v1; MODELS is a JSON list)
// Prints a line of JSON for each.
import { createRequire } from "node:module";

const require = createRequire(process.env.TUNNEL_CLIENTS_DIR + "/");
const OpenAI = require("openai");
const [baseURL, token, models, limit] = process.argv.slice(2);
const client = new OpenAI({
  baseURL,
  apiKey: token === "-" ? "none" : token,
  maxRetries: 0,
  timeout: limit * 1000,
  // What it thinks of a broken line it also throws.
  logLevel: "off",
});
const messages = [{ role: "user", content: "Say hi" }];

async function ask(api, model, stream, row) {
  const answer =
    api === "chat"
      ? await client.chat.completions.create({ model, messages, stream })
      : await client.completions.create({ model, prompt: "Say hi", stream });
  for await (const part of stream ? answer : [answer]) {
    for (const choice of part.choices ?? []) {
      row.text += (api === "completions" ? choice.text : (choice.delta ?? choice.message).content) ?? "";
      row.finished ||= Boolean(choice.finish_reason);
    }
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
    const transport = error instanceof TypeError;
    row.outcome = "error";
    row.kind = error instanceof OpenAI.OpenAIError ? "own" : transport ? "transport" : "other";
    row.error = `${error.constructor.name}: ${error.message}`;
  }
  clearTimeout(timer);
  row.ms = Math.round(performance.now() - began);
  console.log(JSON.stringify(row));
}

const cells = [];
for (const model of JSON.parse(models))
  for (const api of ["chat", "completions"])
    for (const stream of [false, true]) cells.push(cell(api, model, stream));
await Promise.all(cells);
// A request that hangs keeps no process alive.
process.exit(0);
