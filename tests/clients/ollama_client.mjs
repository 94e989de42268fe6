// The official ollama-js client through one door. usage: ollama_client.mjs BASE_URL TOKEN|- MODEL
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(process.env.TUNNEL_CLIENTS_DIR + "/");
const { Ollama } = require("ollama");
const [host, token, model] = process.argv.slice(2);
const headers = token === "-" ? {} : { Authorization: `Bearer ${token}` };
const client = new Ollama({ host, headers });
const messages = [{ role: "user", content: "Say hi" }];

assert((await client.list()).models.some((entry) => entry.model === model), "list");
assert((await client.ps()).models.some((entry) => entry.model === model), "ps");
assert.equal((await client.show({ model })).details.family, "llama", "show");

const answer = await client.chat({ model, messages });
assert(answer.done && answer.message.content, "chat");
let text = "";
let parts = 0;
for await (const part of await client.chat({ model, messages, stream: true })) {
  text += part.message.content;
  parts += 1;
}
assert(parts > 2, "chat, streamed");
assert.equal(text, answer.message.content, "both chats are the same");

const written = await client.generate({ model, prompt: "Say hi" });
text = "";
for await (const part of await client.generate({ model, prompt: "Say hi", stream: true })) text += part.response;
assert.equal(text, written.response, "generate, streamed");

assert.equal((await client.embed({ model, input: ["one", "two"] })).embeddings.length, 2, "embed");
assert((await client.embeddings({ model, prompt: "one" })).embedding.length > 1, "embeddings");

for (const stream of [false, true]) {
  await assert.rejects(
    client.chat({ model: "nope", messages, stream }),
    (error) => error.name === "ResponseError" && error.status_code === 404 && error.error === "model 'nope' not found",
    "an unknown model is refused",
  );
}
console.log("ollama-js: list, ps, show, chat, generate, embed, unknown model");
