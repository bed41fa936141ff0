"""Ollama's client: chat, generate, models coming and going, pulling, errors."""

import asyncio
import datetime
import json
import math
import time

import httpx
import ollama
import pytest
from conftest import MODEL, WEATHER

NAME = "SmolLM2-135M-Instruct.Q4_1:latest"
MONTHS = "List the months of the year."
ASK = [{"role": "user", "content": MONTHS}]
GREEDY = {"temperature": 0, "num_predict": 24}


def counts(answer, tokens):
    assert answer.done and answer.eval_count == tokens and answer.prompt_eval_count > 10
    assert 0 < answer.eval_duration < answer.total_duration
    assert 0 < answer.prompt_eval_duration < answer.total_duration
    assert 0 <= answer.load_duration < answer.total_duration


def test_health(server):
    assert httpx.get(server.url).text == "Ollama is running"
    assert httpx.head(server.url).status_code == 200
    version = httpx.get(server.url + "/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    assert httpx.head(server.url + "/api/tags").status_code == 200


def test_models_are_listed_and_shown(llama):
    model = next(m for m in llama.list().models if m.model == NAME)
    assert model.size == 98_362_432 and len(model.digest) == 64
    assert model.modified_at < datetime.datetime.now(datetime.timezone.utc)
    details = model.details
    assert (details.format, details.family, details.quantization_level) == ("gguf", "llama", "Q4_1")
    assert details.parameter_size == "134.5M"
    for name in MODEL, MODEL + ":latest", NAME, NAME.removesuffix(":latest"):
        shown = llama.show(name)
        assert shown.details == details and "completion" in shown.capabilities
        assert shown.modelinfo["general.architecture"] == "llama"
        assert shown.modelinfo["llama.context_length"] == 8192
        assert shown.modelinfo["general.parameter_count"] == 134_515_008
        assert shown.modelinfo["tokenizer.ggml.tokens"] is None
        assert "<|im_start|>" in shown.template and shown.modelfile.count("FROM " + NAME) == 1
        assert shown.license == "apache-2.0" and "temperature" in shown.parameters
    verbose = httpx.post(str(llama._client.base_url) + "/api/show", json={"model": MODEL, "verbose": True}).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 49152
    assert {"name": "output_norm.weight", "type": "F32", "shape": [576]} in verbose["tensors"]


def test_generate(llama):
    whole = llama.generate(MODEL, MONTHS, options=GREEDY)
    assert "January, February, March" in whole.response and whole.done_reason == "length"
    counts(whole, 24)
    parts = list(llama.generate(MODEL, MONTHS, options=GREEDY, stream=True))
    assert "".join(p.response for p in parts) == whole.response
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    counts(parts[-1], 24)
    assert parts[-1].context == whole.context and len(whole.context) > 40
    on = llama.generate(MODEL, "Go on.", context=whole.context, options=GREEDY)
    assert on.prompt_eval_count > len(whole.context)
    system = llama.generate(MODEL, MONTHS, system="You are a pirate.", options=GREEDY)
    assert system.prompt_eval_count != whole.prompt_eval_count


def test_raw(llama):
    raw = llama.generate(MODEL, "One, two, three,", raw=True, options=GREEDY)
    assert "four" in raw.response and raw.context is None
    assert raw.prompt_eval_count < 12


def test_chat(llama):
    whole = llama.chat(MODEL, ASK, options=GREEDY)
    assert whole.message.role == "assistant" and "January, February, March" in whole.message.content
    counts(whole, 24)
    parts = list(llama.chat(MODEL, ASK, options=GREEDY, stream=True))
    assert "".join(p.message.content for p in parts) == whole.message.content
    assert parts[-1].done_reason == "length" and all(p.model == MODEL for p in parts)
    counts(parts[-1], 24)
    said = [{"role": "system", "content": "You count."}, {"role": "user", "content": "Count to ten."},
            {"role": "assistant", "content": "One, two, three,"}]
    assert "four" in llama.chat(MODEL, said, options=GREEDY).message.content
    said = ASK + [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "months", "arguments": {"n": 12}}}]},
        {"role": "tool", "tool_name": "months", "content": "January …"},
    ]
    assert llama.chat(MODEL, said, options=GREEDY).eval_count > 0


def test_options(llama):
    ask = lambda **options: llama.generate(MODEL, MONTHS, options={"num_predict": 20, **options}).response
    greedy = ask(temperature=0)
    assert ask(temperature=1.9, top_k=1) == greedy and ask(temperature=1.9, min_p=1) == greedy
    first = ask(temperature=1.5, seed=11)
    assert ask(temperature=1.5, seed=11) == first and ask(temperature=1.5, seed=12) != first
    cut = llama.generate(MODEL, MONTHS, options={"num_predict": 40, "temperature": 0, "stop": ["March"]})
    assert cut.response.endswith("February, ") and cut.done_reason == "stop"
    penalized = {"repeat_penalty": 1.8, "repeat_last_n": -1, "presence_penalty": 1.5, "frequency_penalty": 1}
    assert ask(temperature=0, **penalized) != greedy
    ignored = {"num_ctx": 512, "num_gpu": 1, "mirostat": 1, "num_thread": 2, "top_p": 1, "num_keep": 4}
    assert ask(temperature=0, **ignored) == greedy
    assert llama.generate(MODEL, "Say yes.", options={"temperature": 0, "num_predict": -1}).done_reason == "stop"


def test_logprobs(llama):
    told = llama.chat(MODEL, ASK, logprobs=True, top_logprobs=2, options={"temperature": 0, "num_predict": 4})
    assert "".join(t.token for t in told.logprobs) == told.message.content
    assert all(len(t.top_logprobs) == 2 and t.top_logprobs[0].token == t.token for t in told.logprobs)
    assert all(math.exp(t.logprob) <= 1 for t in told.logprobs)
    parts = llama.generate(MODEL, MONTHS, logprobs=True, stream=True, options={"temperature": 0, "num_predict": 4})
    assert sum(len(p.logprobs or []) for p in parts) == 4


def test_models_come_and_go(llama):
    now = lambda: datetime.datetime.now(datetime.timezone.utc)
    gone = llama.generate(MODEL, "", keep_alive=0)
    assert (gone.done, gone.done_reason, gone.response) == (True, "unload", "")
    for _ in range(100):
        if not llama.ps().models:
            break
        time.sleep(0.05)
    assert llama.ps().models == []
    loaded = llama.generate(MODEL, "", keep_alive="10m")
    assert (loaded.done, loaded.done_reason) == (True, "load")
    [model] = llama.ps().models
    assert model.name == model.model == NAME and model.context_length == 4096
    assert model.size > 98_000_000 and model.size_vram == 0 and model.details.family == "llama"
    assert 590 < (model.expires_at - now()).total_seconds() <= 600
    assert llama.chat(MODEL, [], keep_alive=-1).done_reason == "load"
    assert (llama.ps().models[0].expires_at - now()).days > 3650
    assert llama.chat(MODEL, [], keep_alive=0).done_reason == "unload"
    answer = llama.chat(MODEL, ASK, keep_alive=300, options={"num_predict": 1})
    assert answer.load_duration > 0 and 290 < (llama.ps().models[0].expires_at - now()).total_seconds() <= 300


def test_pull(llama, hub):
    hub.pause["tiny"] = 0.02
    parts = list(llama.pull("hf.co/owner/tiny", stream=True))
    assert parts[0].status == "pulling manifest" and parts[-1].status == "success"
    told = [p for p in parts if p.total]
    assert told and all(p.total == len(hub.files["tiny"]) and p.digest.startswith("sha256:") for p in told)
    done = [p.completed for p in told]
    assert done == sorted(done) and done[-1] == told[-1].total and len(set(done)) > 2
    assert "tiny:latest" in [m.model for m in llama.list().models]
    shown = llama.show("tiny")
    assert shown.modelinfo["llama.context_length"] == 2048 and shown.license == "mit"
    # It is known by the name that it was pulled by.
    assert llama.show("hf.co/owner/tiny") == shown
    # Once more, and by its name here: nothing is to do.
    asked = len(hub.ranges)
    assert llama.pull("hf.co/owner/tiny").status == "success"
    assert llama.pull("tiny").status == "success" and len(hub.ranges) == asked
    assert llama.delete("tiny").status == "success"
    assert "tiny:latest" not in [m.model for m in llama.list().models]
    with pytest.raises(ollama.ResponseError) as e:
        llama.delete("tiny")
    assert e.value.status_code == 404


def test_a_pull_goes_on_where_it_was_left(llama, hub):
    hub.pause["slow"] = 0.03
    for part in llama.pull("hf.co/owner/slow", stream=True):
        if part.completed and part.completed > 300_000:
            break  # the client leaves
    time.sleep(0.5)
    came = sum(1 for name, _ in hub.ranges if name == "slow")
    time.sleep(0.5)
    hub.pause["slow"] = 0
    assert llama.pull("hf.co/owner/slow", stream=False).status == "success"
    starts = [start for name, start in hub.ranges if name == "slow"]
    assert len(starts) == came + 1 and starts[0] == 0 and starts[-1] >= 300_000
    assert llama.delete("hf.co/owner/slow").status == "success"


def test_two_wait_for_one_pull(llama, server, hub):
    async def both():
        client = ollama.AsyncClient(host=server.url)
        return await asyncio.gather(*(client.pull("hf.co/owner/other") for _ in range(3)))

    hub.pause["other"] = 0.3
    assert [r.status for r in asyncio.run(both())] == ["success"] * 3
    assert [name for name, _ in hub.ranges].count("other") == 1
    llama.delete("other")


def test_errors(llama, guarded):
    def refused(status, call):
        with pytest.raises(ollama.ResponseError) as e:
            call()
        assert e.value.status_code == status, e.value
        return e.value.error

    generate = lambda **more: lambda: llama.generate(MODEL, more.pop("prompt", "Hi"), **more)
    assert "nothing" in refused(404, lambda: llama.generate("nothing", "Hi"))
    assert "nothing" in refused(404, lambda: llama.chat("nothing", ASK))
    assert refused(404, lambda: llama.show("nothing"))
    assert "names nothing to fetch" in refused(404, lambda: llama.pull("nothing"))
    assert "owner/missing" in refused(500, lambda: llama.pull("hf.co/owner/missing"))
    with pytest.raises(ollama.ResponseError, match="owner/missing"):
        list(llama.pull("hf.co/owner/missing", stream=True))
    assert "`template`" in refused(400, generate(template="{{ .Prompt }}"))
    assert "`suffix`" in refused(400, generate(suffix="end"))
    assert "text only" in refused(400, generate(images=["aGVsbG8="]))
    assert "raw" in refused(400, generate(raw=True, system="x"))
    assert "think" in refused(400, lambda: llama.chat(MODEL, ASK, think=True))
    assert "temperature" in refused(400, generate(options={"temperature": "hot"}))
    assert "keep_alive" in refused(400, generate(keep_alive="soon"))
    assert "context" in refused(400, generate(prompt="many words " * 9000))
    assert "nothing" in refused(404, lambda: llama.copy("nothing", "other"))
    assert "nothing" in refused(404, lambda: llama.create("other", from_="nothing"))
    assert "`files`" in refused(400, lambda: llama.create("other", files={"x.gguf": "sha256:" + "0" * 64}))
    assert "name of a model" in refused(400, lambda: llama.create(MODEL, from_=MODEL))
    with pytest.raises(ollama.ResponseError, match="no parameter"):
        list(llama.create("other", from_=MODEL, parameters={"temprature": 1}, stream=True))
    assert refused(501, lambda: llama.push("other"))
    assert "num_ctx" in refused(400, generate(prompt="many words " * 99, options={"num_ctx": 64}))
    assert refused(401, lambda: ollama.Client(host=guarded.url).list())
    friend = ollama.Client(host=guarded.url, headers={"Authorization": "Bearer secret"})
    assert friend.list().models
    assert "offline" in refused(403, lambda: friend.pull("hf.co/owner/tiny"))


def test_a_preset_from_its_making_to_its_end(llama, server, tmp_path):
    done = llama.create(
        "poet", from_=MODEL, system="You are a poet.", license=["MIT"], stream=False,
        parameters={"temperature": 0, "num_predict": 6, "stop": ["Roses"]},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Violets"}],
    )
    assert done.status == "success"
    parts = [part.status for part in llama.create("bard", from_="poet", system="You are a bard.", stream=True)]
    assert parts[0].startswith("using existing layer") and parts[-1] == "success"
    assert {"poet:latest", "bard:latest"} <= {m.model for m in llama.list().models}
    poet, base = llama.chat("poet", ASK), llama.chat(MODEL, ASK, options=GREEDY)
    assert poet.eval_count <= 6 and poet.prompt_eval_count > base.prompt_eval_count
    assert llama.chat("poet:latest", ASK).message == poet.message
    # Its base is loaded once, and each is told with its own name.
    assert {"poet:latest", NAME} <= {m.model for m in llama.ps().models}
    shown = llama.show("poet")
    assert "You are a poet." in shown.modelfile and shown.license == "MIT"
    assert shown.details.parent_model == NAME and "num_predict" in shown.parameters
    assert shown.modelinfo == llama.show(MODEL).modelinfo
    assert llama.copy("poet", "copy").status == "success"
    assert llama.chat("copy", ASK).message == poet.message
    assert llama.generate("poet", keep_alive=0).done_reason == "unload"
    assert "poet:latest" not in {m.model for m in llama.ps().models}
    for name in "poet", "bard", "copy":
        assert llama.delete(name).status == "success"
        with pytest.raises(ollama.ResponseError) as e:
            llama.show(name)
        assert e.value.status_code == 404
    (tmp_path / "x.gguf").write_bytes(b"x")
    with pytest.raises(ollama.ResponseError, match="files are not taken in"):
        llama.create_blob(tmp_path / "x.gguf")


def test_a_context_is_as_long_as_asked(llama):
    short = llama.generate(MODEL, MONTHS, options={"temperature": 0, "num_ctx": 48})
    assert short.done_reason == "length" and short.prompt_eval_count + short.eval_count == 49
    assert llama.generate(MODEL, MONTHS, options={"temperature": 0, "num_ctx": 5000, "num_predict": 1}).done
    assert next(m for m in llama.ps().models if m.model == NAME).context_length >= 5000


def test_embed(llama):
    answer = llama.embed(MODEL, ["a cat", "the stock market"])
    assert len(answer.embeddings) == 2 and answer.prompt_eval_count > 0
    assert all(math.isclose(sum(x * x for x in v), 1, abs_tol=1e-3) for v in answer.embeddings)
    [one] = llama.embed(MODEL, "a cat").embeddings
    assert sum(x * y for x, y in zip(one, answer.embeddings[0])) > 0.998
    [short] = llama.embed(MODEL, "a cat", dimensions=64).embeddings
    assert len(short) == 64 and math.isclose(sum(x * x for x in short), 1, abs_tol=1e-3)
    old = llama.embeddings(MODEL, "a cat").embedding
    assert len(old) == len(one)


def test_tools(llama):
    # Ollama's API cannot ask for a call: that tools are taken, and the answer is well-formed, is what can be seen.
    answer = llama.chat(MODEL, ASK, tools=[WEATHER], options=GREEDY)
    assert answer.message.tool_calls or answer.message.content


def test_structured_output(llama):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    answer = llama.chat(MODEL, ASK, format=schema, options={"temperature": 0, "num_predict": 60})
    assert isinstance(json.loads(answer.message.content)["age"], int)
