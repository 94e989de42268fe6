"""What the official clients make of a full queue. usage: queue_full.py BASE_URL MODEL"""
import sys

import ollama
import openai

base_url, model = sys.argv[1:3]
question = [{"role": "user", "content": "Say hi"}]

# Without tries of its own: it heeds Retry-After, and the test has no time for that.
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0)
for stream in (False, True):
    try:
        client.chat.completions.create(model=model, messages=question, stream=stream)
    except openai.RateLimitError as error:
        assert error.status_code == 429 and error.code == "queue_full", error
        assert 1 <= int(error.response.headers["retry-after"]) <= 60, error.response.headers
    else:
        raise AssertionError("openai: it is served")

for stream in (False, True):
    try:
        answer = ollama.Client(host=base_url).chat(model, question, stream=stream)
        list(answer)
    except ollama.ResponseError as error:
        assert error.status_code == 429 and "wait already" in error.error, error
    else:
        raise AssertionError("ollama: it is served")
print("openai: RateLimitError, queue_full; ollama: ResponseError, 429")
