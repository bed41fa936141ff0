"""OpenAI's client: chat, completions, responses, models, errors."""

import json
import math

import openai
import pytest
from conftest import MODEL, WEATHER
from pydantic import BaseModel

MONTHS = [{"role": "user", "content": "List the months of the year."}]
BRIEF = [{"role": "user", "content": "Say yes."}]


def chat(gpt, messages=MONTHS, **more):
    options = {"max_tokens": 16, "temperature": 0, **more}
    return gpt.chat.completions.create(model=MODEL, messages=messages, **options)


def joined(stream):
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def test_models(gpt):
    models = gpt.models.list().data
    assert [m.id for m in models] == ["SmolLM2-135M-Instruct.Q4_1"]
    assert gpt.models.retrieve(MODEL).id == models[0].id
    assert models[0].object == "model" and models[0].created > 1_600_000_000


def test_a_stream_says_what_the_whole_says(gpt):
    whole = chat(gpt, max_tokens=24)
    assert "January, February, March" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
    chunks = list(chat(gpt, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert all(c.usage is None for c in chat(gpt, stream=True))


def test_the_streams_helper(gpt):
    with gpt.chat.completions.stream(model=MODEL, messages=BRIEF, temperature=0) as stream:
        texts = [e.delta for e in stream if e.type == "content.delta"]
        assert "".join(texts) == stream.get_final_completion().choices[0].message.content


def test_roles_and_parts(gpt):
    parts = [{"type": "text", "text": "List the months"}, {"type": "text", "text": "of the year."}]
    said = [{"role": "developer", "content": "You list things."}, {"role": "user", "content": parts}]
    assert chat(gpt, said).choices[0].message.content
    history = MONTHS + [{"role": "assistant", "content": "January"}, {"role": "user", "content": "Go on."}]
    assert chat(gpt, history).choices[0].message.content


def test_stop(gpt):
    whole = chat(gpt, max_tokens=40).choices[0].message.content
    cut = chat(gpt, max_tokens=40, stop=["March"]).choices[0]
    assert cut.message.content == whole[: whole.index("March")] and cut.finish_reason == "stop"
    assert joined(chat(gpt, max_tokens=40, stop=["March", "x"], stream=True)) == cut.message.content


def test_seeds(gpt):
    ask = lambda seed, **more: chat(gpt, temperature=1.5, seed=seed, max_tokens=20, **more)
    first = ask(7).choices[0].message.content
    assert ask(7).choices[0].message.content == first
    assert ask(8).choices[0].message.content != first
    assert joined(ask(7, stream=True)) == first


def test_several_answers(gpt):
    answer = chat(gpt, n=3, temperature=1.2, seed=3)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1
    whole = sum(c.finish_reason == "length" for c in answer.choices)  # another may end sooner
    assert 16 * whole <= answer.usage.completion_tokens <= 48
    assert (answer.usage.completion_tokens == 48) == (whole == 3)
    texts = ["", "", ""]
    for chunk in chat(gpt, n=3, temperature=1.2, seed=3, stream=True):
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
    assert texts == [c.message.content for c in answer.choices]


def test_logprobs(gpt):
    answer = chat(gpt, max_tokens=6, logprobs=True, top_logprobs=3).choices[0]
    tokens = answer.logprobs.content
    assert len(tokens) == 6 and "".join(t.token for t in tokens) == answer.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3 and bytes(token.bytes).decode() == token.token
        # At temperature 0 the one chosen is the likeliest.
        assert token.top_logprobs[0].token == token.token
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-6)
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1.001
    streamed = [t for c in chat(gpt, max_tokens=6, logprobs=True, stream=True)
                for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert [t.token for t in streamed] == [t.token for t in tokens]


def test_bias_and_penalties(gpt):
    first = chat(gpt, max_tokens=1, logprobs=True, top_logprobs=2).choices[0]
    completion = gpt.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0)
    same = lambda **more: gpt.completions.create(
        model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0, **more
    ).choices[0].text
    assert same(presence_penalty=2, frequency_penalty=2) != completion.choices[0].text
    # Every token of the digits and commas forbidden leaves another text.
    banned = {str(i): -100 for i in range(0, 49152, 2)}
    assert same(logit_bias=banned) != completion.choices[0].text
    assert first.message.content


def test_completions(gpt):
    make = lambda prompt, **more: gpt.completions.create(
        model=MODEL, prompt=prompt, **{"max_tokens": 8, "temperature": 0, **more}
    )
    one = make("One, two, three,")
    assert one.object == "text_completion" and "four" in one.choices[0].text
    assert make("One, two, three,", echo=True).choices[0].text == "One, two, three," + one.choices[0].text
    many = make(["One, two, three,", "Monday, Tuesday,"], n=2)
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == one.choices[0].text
    assert "".join(c.choices[0].text for c in make("One, two, three,", stream=True)) == one.choices[0].text
    told = make("One, two, three,", logprobs=2).choices[0].logprobs
    assert "".join(told.tokens) == one.choices[0].text and len(told.top_logprobs[0]) == 2
    assert make("One, two, three,", stop=["five"]).choices[0].finish_reason == "stop"
    assert make([504, 28, 827], max_tokens=2).usage.prompt_tokens in (3, 4)


def test_an_echoed_prompt_is_scored(gpt):
    """As tools that judge models ask: how likely is a text, and would the model have said it?"""
    make = lambda prompt, **more: gpt.completions.create(
        model=MODEL, prompt=prompt, **{"max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 1, **more}
    )
    prompt = "The months: January, February, March, April,"
    one = make(prompt)
    told = one.choices[0].logprobs
    assert one.choices[0].text == prompt == "".join(told.tokens) and one.usage.completion_tokens == 0
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == one.usage.prompt_tokens
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    starts = [sum(map(len, told.tokens[:i])) for i in range(len(told.tokens))]
    assert told.text_offset == starts
    # lm-evaluation-harness: the sum over what follows a context, and whether each of it was the likeliest. It asks for
    # one token of an answer and takes that off.
    def judge(context, rest):
        choice = make(context + rest, max_tokens=1).choices[0].logprobs
        at = choice.text_offset.index(len(context))
        logprobs, top = choice.token_logprobs[at:-1], choice.top_logprobs[at:-1]
        return sum(logprobs), all(own == max(others.values()) for own, others in zip(logprobs, top))

    right, greedy = judge(prompt, " May, June")
    wrong, other = judge(prompt, " Tuesday, cow")
    assert greedy and not other and -3 < right < 0 and wrong < right - 5
    # What was said is as likely when it is read.
    said = make(prompt, max_tokens=12, logprobs=3).choices[0]
    read = make(said.text, logprobs=3).choices[0].logprobs
    assert read.tokens == said.logprobs.tokens
    pairs = list(zip(read.token_logprobs, said.logprobs.token_logprobs))[1:]
    assert all(math.isclose(a, b, abs_tol=0.15) for a, b in pairs), pairs
    assert all(3 <= len(top) <= 4 for top in read.top_logprobs[1:])
    # Several prompts, as tokens; and a stream.
    many = make([[504, 28, 827], [504, 827]], max_tokens=1)
    assert [len(c.logprobs.tokens) for c in many.choices] == [4, 3]
    chunks = list(make(prompt, max_tokens=4, stream=True))
    assert chunks[0].choices[0].text == prompt and chunks[0].choices[0].logprobs.tokens == told.tokens
    assert "".join(c.choices[0].text for c in chunks) == said.text[: sum(map(len, said.logprobs.tokens[: len(told.tokens) + 4]))]
    # A long text takes many steps; what it repeats is likely by then.
    long = make("Monday, Tuesday, Wednesday, Thursday, Friday, " * 40).choices[0].logprobs.token_logprobs
    assert len(long) >= 400 and sum(long[-100:]) / 100 > -0.4 > sum(long[1:11]) / 10


def test_responses(gpt):
    make = lambda text, **more: gpt.responses.create(
        model=MODEL, input=text, **{"max_output_tokens": 16, "temperature": 0, **more}
    )
    first = make("List the months of the year.", instructions="You list things.")
    assert first.output_text and first.status in ("completed", "incomplete")
    assert first.usage.output_tokens == 16
    assert gpt.responses.retrieve(first.id).output_text == first.output_text
    items = gpt.responses.input_items.list(first.id).data
    assert items[0].role == "user"
    second = make("Go on.", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(first.id)
    events = list(make([{"role": "user", "content": "List the months of the year."}], stream=True))
    assert events[0].type == "response.created"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text and events[-1].type in ("response.completed", "response.incomplete")
    not_kept = make("Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(not_kept.id)


def test_the_responses_stream_helper(gpt):
    with gpt.responses.stream(model=MODEL, input="Say yes.", temperature=0) as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        assert "".join(deltas) == stream.get_final_response().output_text


def test_errors(gpt, server, guarded):
    with pytest.raises(openai.NotFoundError) as e:
        gpt.chat.completions.create(model="nothing", messages=MONTHS)
    assert e.value.code == "model_not_found" and e.value.param == "model"
    for wrong, field in [
        ({"temperature": 9}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ]:
        with pytest.raises(openai.BadRequestError) as e:
            chat(gpt, **wrong)
        assert e.value.param == field and field.split("[")[0] in e.value.message
    with pytest.raises(openai.BadRequestError) as e:
        chat(gpt, [{"role": "user", "content": "many words " * 9000}])
    assert e.value.code == "context_length_exceeded"
    stranger = openai.OpenAI(base_url=guarded.url + "/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    friend = openai.OpenAI(base_url=guarded.url + "/v1", api_key="secret", max_retries=0)
    assert friend.models.list().data
    with pytest.raises(openai.NotFoundError):
        friend.post("/nothing", cast_to=object)


def test_embeddings(gpt):
    answer = gpt.embeddings.create(model=MODEL, input=["a cat", "a dog", "the stock market"])
    vectors = [d.embedding for d in answer.data]
    assert len(vectors) == 3 and len({len(v) for v in vectors}) == 1
    assert all(math.isclose(sum(x * x for x in v), 1, abs_tol=1e-3) for v in vectors)
    [short] = gpt.embeddings.create(model=MODEL, input="a cat", dimensions=64, encoding_format="float").data
    assert len(short.embedding) == 64 and answer.usage.prompt_tokens > 3


def test_tools(gpt):
    ask = [{"role": "user", "content": "What is the weather in Rome?"}]
    options = {"tools": [WEATHER], "max_tokens": 60}
    for choice in ["required", {"type": "function", "function": {"name": "weather"}}]:
        answer = chat(gpt, ask, tool_choice=choice, **options)
        [call, *_] = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    said = ask + [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 30 degrees"}]
    assert chat(gpt, said, tool_choice="none", **options).choices[0].message.content
    chunks = list(chat(gpt, ask, tool_choice="required", stream=True, **options))
    calls = [c for chunk in chunks for c in (chunk.choices[0].delta.tool_calls or [])]
    assert json.loads("".join(c.function.arguments for c in calls if c.index == 0))["city"] in ("Rome", "Oslo")


class Person(BaseModel):
    name: str
    age: int


def test_structured_output(gpt):
    ask = [{"role": "user", "content": "Anna is 31 years old. Who is it?"}]
    answer = gpt.chat.completions.parse(
        model=MODEL, messages=ask, response_format=Person, max_tokens=60, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    answer = gpt.responses.parse(model=MODEL, input=ask, text_format=Person, max_output_tokens=60, temperature=0)
    assert isinstance(answer.output_parsed, Person)
    answer = chat(gpt, ask, response_format={"type": "json_object"}, max_tokens=60)
    if answer.choices[0].finish_reason == "stop":
        json.loads(answer.choices[0].message.content)
