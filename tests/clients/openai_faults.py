"""What openai-python makes of servers that fail: each model once by each API, streamed and not, all at the same time.
usage: openai_faults.py BASE_URL TOKEN|- MODELS LIMIT_S   (BASE_URL ends in /v1; MODELS is a JSON list)
Prints a line of JSON for each."""
import concurrent.futures
import json
import sys
import time

import httpx
import openai

base_url, token, models, limit = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
client = openai.OpenAI(
    base_url=base_url, api_key="none" if token == "-" else token, max_retries=0, timeout=httpx.Timeout(limit)
)
question = [{"role": "user", "content": "Say hi"}]


def ask(api, model, stream, row):
    if api == "chat":
        answer = client.chat.completions.create(model=model, messages=question, stream=stream)
    else:
        answer = client.completions.create(model=model, prompt="Say hi", stream=stream)
    for part in answer if stream else [answer]:
        for choice in part.choices or []:
            if api == "completions":
                row["text"] += choice.text or ""
            else:
                row["text"] += (choice.delta if stream else choice.message).content or ""
            row["finished"] = row["finished"] or choice.finish_reason is not None


def cell(api, model, stream):
    row = {"api": api, "model": model, "stream": stream, "outcome": "answer", "text": "", "finished": False}
    began = time.monotonic()
    try:
        ask(api, model, stream, row)
    except Exception as error:
        own, transport = isinstance(error, openai.OpenAIError), isinstance(error, httpx.HTTPError)
        row["kind"] = "own" if own else "transport" if transport else "other"
        row.update(outcome="error", error=f"{type(error).__name__}: {error}")
    row["ms"] = int((time.monotonic() - began) * 1000)
    print(json.dumps(row), flush=True)


cells = [(api, model, stream) for model in models for api in ("chat", "completions") for stream in (False, True)]
with concurrent.futures.ThreadPoolExecutor(len(cells)) as pool:
    list(pool.map(lambda each: cell(*each), cells))
