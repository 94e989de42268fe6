"""What ollama-python makes of servers that fail: each model once by each API, streamed and not, all at the same time.
usage: ollama_faults.py BASE_URL TOKEN|- MODELS LIMIT_S   (MODELS is a JSON list)
Prints a line of JSON for each."""
import concurrent.futures
import json
import sys
import time

import httpx
import ollama

base_url, token, models, limit = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), float(sys.argv[4])
headers = {} if token == "-" else {"Authorization": f"Bearer {token}"}
client = ollama.Client(host=base_url, headers=headers, timeout=limit)
question = [{"role": "user", "content": "Say hi"}]


def ask(api, model, stream, row):
    if api == "chat":
        answer = client.chat(model, question, stream=stream)
    else:
        answer = client.generate(model, "Say hi", stream=stream)
    for part in answer if stream else [answer]:
        row["text"] += (part.message.content if api == "chat" else part.response) or ""
        row["finished"] = row["finished"] or bool(part.done)


def cell(api, model, stream):
    row = {"api": api, "model": model, "stream": stream, "outcome": "answer", "text": "", "finished": False}
    began = time.monotonic()
    try:
        ask(api, model, stream, row)
    except Exception as error:
        own = isinstance(error, (ollama.ResponseError, ollama.RequestError, ConnectionError))
        transport = isinstance(error, httpx.HTTPError)
        row["kind"] = "own" if own else "transport" if transport else "other"
        row.update(outcome="error", error=f"{type(error).__name__}: {error}")
    row["ms"] = int((time.monotonic() - began) * 1000)
    print(json.dumps(row), flush=True)


cells = [(api, model, stream) for model in models for api in ("chat", "generate") for stream in (False, True)]
with concurrent.futures.ThreadPoolExecutor(len(cells)) as pool:
    list(pool.map(lambda each: cell(*each), cells))
