// The official openai-js client through one door.
// usage: openai_client.mjs BASE_URL TOKEN|- MODEL   (BASE_URL ends in /v1)
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(process.env.TUNNEL_CLIENTS_DIR + "/");
const OpenAI = require("openai");
const [baseURL, token, model] = process.argv.slice(2);
// The library insists on a key; the gateway takes none and must not pass this one on.
const client = new OpenAI({ baseURL, apiKey: token === "-" ? "none" : token, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hi" }];

const listed = [];
for await (const entry of client.models.list()) listed.push(entry.id);
assert(listed.includes(model), "list");

const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
assert(answer.choices[0].message.content && answer.usage.completion_tokens > 0, "chat");
let text = "";
let reason = null;
for await (const part of await client.chat.completions.create({ model, messages, max_tokens: 8, stream: true })) {
  text += part.choices[0]?.delta.content ?? "";
  reason = part.choices[0]?.finish_reason ?? reason;
}
assert(text, "chat, streamed");
assert(reason, "the stream says why it ended");

assert((await client.completions.create({ model, prompt: "Say hi", max_tokens: 4 })).choices[0].text, "completion");

const vectors = await client.embeddings.create({ model, input: ["one", "two"] });
assert.equal(vectors.data.length, 2, "embeddings");

for (const stream of [false, true]) {
  await assert.rejects(
    client.chat.completions.create({ model: "nope", messages, stream }),
    (error) => error instanceof OpenAI.NotFoundError && error.status === 404 && error.message.includes("nope"),
    "an unknown model is refused",
  );
}
console.log("openai-js: list, chat, completion, embeddings, unknown model");
