"""langchain-ollama through one door. usage: langchain_client.py BASE_URL TOKEN|- MODEL"""
import sys

import ollama
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

base_url, token, model = sys.argv[1:4]
kwargs = {} if token == "-" else {"client_kwargs": {"headers": {"Authorization": f"Bearer {token}"}}}

chat = ChatOllama(model=model, base_url=base_url, **kwargs)
answer = chat.invoke("Say hi").content
assert answer, "invoke"
parts = [part.content for part in chat.stream("Say hi")]
assert len([part for part in parts if part]) > 2 and "".join(parts) == answer, "stream"

text = OllamaLLM(model=model, base_url=base_url, **kwargs).invoke("Say hi")
assert text == answer, "the completion model says the same"

vectors = OllamaEmbeddings(model=model, base_url=base_url, **kwargs).embed_documents(["one", "two"])
assert len(vectors) == 2 and len(vectors[0]) > 1, "embed_documents"

try:
    ChatOllama(model="nope", base_url=base_url, **kwargs).invoke("Say hi")
except ollama.ResponseError as error:
    assert error.status_code == 404, f"unknown model: {error.status_code}"
else:
    raise AssertionError("an unknown model is refused")
print("langchain-ollama: invoke, stream, completion, embeddings, unknown model")
