"""The official openai-python client through the door for the network, with keys.
usage: app_keys.py BASE_URL CA_FILE KEY LIMITED_KEY MODEL OTHER_MODEL   (BASE_URL ends in /v1)

KEY is for MODEL alone; LIMITED_KEY may ask twice a minute."""
import ssl
import sys

import httpx
import openai

base_url, ca_file, key, limited_key, model, other_model = sys.argv[1:7]
question = [{"role": "user", "content": "Say hi"}]


def client(key):
    http = httpx.Client(verify=ssl.create_default_context(cafile=ca_file))
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=http)


def refusal(kind, ask):
    try:
        ask()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__} and not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} is expected")


good = client(key)
assert [entry.id for entry in good.models.list()] == [model], "only the key's model is listed"
assert good.models.retrieve(model).id == model
refusal(openai.NotFoundError, lambda: good.models.retrieve(other_model))
answer = good.chat.completions.create(model=model, messages=question)
assert answer.choices[0].message.content, "chat"
parts = list(good.chat.completions.create(model=model, messages=question, stream=True))
assert len(parts) > 2, "chat, streamed"
error = refusal(openai.PermissionDeniedError, lambda: good.chat.completions.create(model=other_model, messages=question))
assert error.code == "model_not_allowed", error

for wrong in ("tk_0123456789_" + "0" * 64, "none"):
    error = refusal(openai.AuthenticationError, lambda: client(wrong).models.list())
    assert error.code == "invalid_api_key" and "tunnelctl keys create" in str(error), error

limited = client(limited_key)
for _ in range(2):
    limited.chat.completions.create(model=model, messages=question)
error = refusal(openai.RateLimitError, lambda: limited.chat.completions.create(model=model, messages=question))
assert 1 <= int(error.response.headers["retry-after"]) <= 60, error.response.headers
assert error.code == "requests_per_minute" and error.type == "rate_limit_error", error
good.chat.completions.create(model=model, messages=question)
print("openai-python: models of the key, chat, stream, wrong keys, limits")
