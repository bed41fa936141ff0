"""Many at once, and clients that leave."""

import asyncio
import time

import anthropic
import ollama
import openai
from conftest import MODEL

ENDLESS = [{"role": "user", "content": "Write a very long story about the sea."}]
KEEP = {"max_tokens": 3000, "logit_bias": {"0": -100, "2": -100}, "temperature": 1}


def test_sixty_four_streams(server):
    async def one(client, i):
        text, ask = "", [{"role": "user", "content": f"Count from {i % 8}."}]
        stream = await client.chat.completions.create(
            model=MODEL, messages=ask, max_tokens=8, temperature=0, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(64)))

    texts = asyncio.run(all_of_them())
    assert all(texts)
    # Whoever asks the same is told the same.
    assert all(text == texts[i % 8] for i, text in enumerate(texts))
    assert server.metric("hob_jobs_running") == 0


def test_all_dialects_at_once(server):
    async def by_gpt(client):
        answer = await client.chat.completions.create(model=MODEL, messages=ENDLESS, max_tokens=8, temperature=0)
        return answer.choices[0].message.content

    async def by_claude(client):
        answer = await client.messages.create(
            model=MODEL, messages=ENDLESS, max_tokens=8, extra_body={"temperature": 0}
        )
        return answer.content[0].text

    async def by_llama(client):
        options = {"num_predict": 8, "temperature": 0}
        return (await client.chat(MODEL, ENDLESS, options=options)).message.content

    async def all_of_them():
        gpt = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        claude = anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0)
        llama = ollama.AsyncClient(host=server.url)
        return await asyncio.gather(*(f for _ in range(4) for f in (by_gpt(gpt), by_claude(claude), by_llama(llama))))

    assert len(set(asyncio.run(all_of_them()))) == 1


def test_whoever_leaves_frees_the_place(server, gpt, claude, llama):
    def by_gpt():
        stream = gpt.chat.completions.create(model=MODEL, messages=ENDLESS, stream=True, **KEEP)
        next(iter(stream))
        return stream.close

    def by_claude():
        stream = claude.messages.create(model=MODEL, messages=ENDLESS, max_tokens=3000, stream=True)
        next(iter(stream))
        return stream.close

    def by_llama():
        client = ollama.Client(host=server.url)
        stream = client.chat(MODEL, ENDLESS, stream=True)
        next(iter(stream))
        return stream.close

    for begin in by_gpt, by_claude, by_llama:
        leave = begin()
        running = server.metric("hob_jobs_running")
        leave()
        took = server.until("hob_jobs_running", 0)
        assert running == 1 and took < 0.5, (begin, running, took)


def test_waiting_is_given_up_too(server):
    async def leave():
        client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        asks = [asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ENDLESS, **KEEP))
                for _ in range(6)]
        await asyncio.sleep(0.5)
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        await client.close()

    asyncio.run(leave())
    start = time.monotonic()
    server.until("hob_jobs_running", 0)
    server.until("hob_jobs_waiting", 0)
    assert time.monotonic() - start < 3
