"""The official ollama-python client through one door. usage: ollama_client.py BASE_URL TOKEN|- MODEL"""
import sys

import ollama

base_url, token, model = sys.argv[1:4]
headers = {} if token == "-" else {"Authorization": f"Bearer {token}"}
client = ollama.Client(host=base_url, headers=headers)
question = [{"role": "user", "content": "Say hi"}]

assert model in [entry.model for entry in client.list().models], "list"
assert model in [entry.model for entry in client.ps().models], "ps"
assert client.show(model).details.family == "llama", "show"

answer = client.chat(model, question)
assert answer.done and answer.message.content, "chat"
parts = list(client.chat(model, question, stream=True))
assert parts[-1].done and len(parts) > 2, "chat, streamed"
assert "".join(part.message.content or "" for part in parts) == answer.message.content, "both chats are the same"

answer = client.generate(model, "Say hi")
assert answer.done and answer.response, "generate"
parts = list(client.generate(model, "Say hi", stream=True))
assert "".join(part.response or "" for part in parts) == answer.response, "generate, streamed"

vectors = client.embed(model, ["one", "two"]).embeddings
assert len(vectors) == 2 and len(vectors[0]) > 1, "embed"
assert len(client.embeddings(model, "one").embedding) > 1, "embeddings"

for what in ("chat", "show", "embed"):
    try:
        client.chat("nope", question) if what == "chat" else client.show("nope") if what == "show" else client.embed("nope", "x")
    except ollama.ResponseError as error:
        assert error.status_code == 404, f"{what} of an unknown model: {error.status_code}"
        assert error.error == "model 'nope' not found", f"{what} of an unknown model: {error.error}"
    else:
        raise AssertionError(f"{what} of an unknown model is refused")
try:
    list(client.chat("nope", question, stream=True))
except ollama.ResponseError as error:
    assert error.status_code == 404, "streamed chat with an unknown model"
else:
    raise AssertionError("streamed chat with an unknown model is refused")
print("ollama-python: list, ps, show, chat, generate, embed, unknown model")
