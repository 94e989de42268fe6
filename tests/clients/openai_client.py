"""The official openai-python client through one door.
usage: openai_client.py BASE_URL TOKEN|- MODEL   (BASE_URL ends in /v1)"""
import sys

import openai

base_url, token, model = sys.argv[1:4]
# The library insists on a key; the gateway takes none and must not pass this one on.
client = openai.OpenAI(base_url=base_url, api_key="none" if token == "-" else token, max_retries=0)
question = [{"role": "user", "content": "Say hi"}]

assert model in [entry.id for entry in client.models.list()], "list"

answer = client.chat.completions.create(model=model, messages=question, max_tokens=8)
assert answer.choices[0].message.content and answer.usage.completion_tokens > 0, "chat"
parts = list(client.chat.completions.create(model=model, messages=question, max_tokens=8, stream=True))
text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert text and len(parts) > 2, "chat, streamed"
assert parts[-1].choices == [] or parts[-1].choices[0].finish_reason, "the stream says why it ended"

assert client.completions.create(model=model, prompt="Say hi", max_tokens=4).choices[0].text, "completion"
parts = list(client.completions.create(model=model, prompt="Say hi", max_tokens=4, stream=True))
assert "".join(part.choices[0].text for part in parts if part.choices), "completion, streamed"

vectors = client.embeddings.create(model=model, input=["one", "two"]).data
assert len(vectors) == 2 and len(vectors[0].embedding) > 1, "embeddings"

for stream in (False, True):
    try:
        list(client.chat.completions.create(model="nope", messages=question, stream=stream))
    except openai.NotFoundError as error:
        assert "nope" in str(error), f"the message names the model: {error}"
    else:
        raise AssertionError("an unknown model is refused")
print("openai-python: list, chat, completion, embeddings, unknown model")
