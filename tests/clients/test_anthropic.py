"""Anthropic's client: messages, streams, counting, models, errors."""

import json

import anthropic
import pytest
from conftest import MODEL, WEATHER

MONTHS = [{"role": "user", "content": "List the months of the year."}]
TOOL = {
    "name": "weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}


# The client has no parameter for what Anthropic's newest models do not take; ours do.
GREEDY = {"temperature": 0}


def make(claude, messages=MONTHS, extra=GREEDY, **more):
    return claude.messages.create(
        model=MODEL, messages=messages, extra_body=extra, **{"max_tokens": 16, **more}
    )


def test_a_message(claude):
    message = make(claude, max_tokens=24)
    [block] = message.content
    assert block.type == "text" and "January, February, March" in block.text
    assert message.type == "message" and message.role == "assistant" and message.id.startswith("msg_")
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.output_tokens == 24


def test_events_come_in_order(claude):
    events = list(make(claude, stream=True))
    kinds = [e.type for e in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[0].message.content == [] and events[0].message.usage.input_tokens >= 0
    assert events[1].content_block.type == "text" and events[1].index == 0
    text = "".join(e.delta.text for e in events if e.type == "content_block_delta")
    assert text == make(claude).content[0].text
    assert events[-2].delta.stop_reason == "max_tokens" and events[-2].usage.output_tokens == 16


def test_the_streams_helper(claude):
    with claude.messages.stream(model=MODEL, messages=MONTHS, max_tokens=12, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].text == text and message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 12


def test_stop_sequences(claude):
    whole = make(claude, max_tokens=40).content[0].text
    cut = make(claude, max_tokens=40, stop_sequences=["March", "zzz"])
    assert cut.content[0].text == whole[: whole.index("March")]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", "March")
    *_, delta, _ = make(claude, max_tokens=40, stop_sequences=["March"], stream=True)
    assert (delta.delta.stop_reason, delta.delta.stop_sequence) == ("stop_sequence", "March")


def test_an_answer_ends_by_itself(claude):
    ask = [{"role": "user", "content": "Say yes."}]
    message = make(claude, ask, max_tokens=400)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None) and message.content[0].text


def test_system_and_blocks(claude):
    system = [{"type": "text", "text": "You list things.", "cache_control": {"type": "ephemeral"}}]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "List the months of the year."}]}]
    by_blocks = make(claude, blocks, system=system)
    assert by_blocks.content[0].text == make(claude, system="You list things.").content[0].text
    likeliest = make(claude, metadata={"user_id": "u"}, extra={"top_k": 1, "top_p": 0.9, "temperature": 1})
    assert likeliest.content[0].text == make(claude).content[0].text
    wild = lambda: make(claude, extra={"temperature": 1}, max_tokens=30).content[0].text
    assert len({wild() for _ in range(3)}) > 1


def test_the_answer_may_be_begun(claude):
    ask = [{"role": "user", "content": "Count to ten."}, {"role": "assistant", "content": "One, two, three,"}]
    assert "four" in make(claude, ask).content[0].text


def test_usage_and_counting(claude):
    ask = [{"role": "user", "content": "Name a rare word: " + "lorem ipsum " * 40}]
    counted = claude.messages.count_tokens(model=MODEL, messages=ask).input_tokens
    first, second = make(claude, ask, max_tokens=2).usage, make(claude, ask, max_tokens=2).usage
    for usage in first, second:
        read = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        assert read == counted
    assert second.cache_read_input_tokens > first.cache_read_input_tokens
    # A prompt longer than the context can be counted, and not answered.
    long = [{"role": "user", "content": "many words " * 9000}]
    assert claude.messages.count_tokens(model=MODEL, messages=long).input_tokens > 9000
    with pytest.raises(anthropic.BadRequestError, match="context"):
        make(claude, long)


def test_models(claude):
    [model] = claude.models.list().data
    assert model.type == "model" and model.id == "SmolLM2-135M-Instruct.Q4_1"
    assert claude.models.retrieve(MODEL).id == model.id
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("nothing")


def test_a_conversation_with_tools_is_understood(claude):
    said = [
        {"role": "user", "content": "What is the weather in Rome?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I ask.", "signature": ""},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
    ]
    assert make(claude, said, tools=[TOOL], tool_choice={"type": "none"}).usage.output_tokens > 0


def test_errors(claude, guarded):
    with pytest.raises(anthropic.NotFoundError) as e:
        claude.messages.create(model="nothing", max_tokens=1, messages=MONTHS)
    assert e.value.body["type"] == "error" and e.value.body["error"]["type"] == "not_found_error"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    server_tool = {"type": "web_search_20250305", "name": "web_search"}
    for wrong, why in [
        ({"messages": [{"role": "user", "content": [image]}]}, "text only"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra": {"temperature": 3}}, "temperature"),
        ({"messages": []}, "messages"),
        ({"tools": [server_tool]}, r"tools\[0\].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ]:
        with pytest.raises(anthropic.BadRequestError, match=why) as e:
            make(claude, **wrong)
        assert e.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="`max_tokens` is missing"):
        claude.post("/v1/messages", cast_to=object, body={"model": MODEL, "messages": MONTHS})
    with pytest.raises(anthropic.AuthenticationError) as e:
        anthropic.Anthropic(base_url=guarded.url, api_key="wrong", max_retries=0).messages.create(
            model=MODEL, max_tokens=1, messages=MONTHS
        )
    assert e.value.body["error"]["type"] == "authentication_error"
    # Its own header bears the token.
    friend = anthropic.Anthropic(base_url=guarded.url, api_key="secret", max_retries=0)
    assert friend.models.list().data


def test_tools(claude):
    ask = [{"role": "user", "content": "What is the weather in Rome?"}]
    for choice in [{"type": "any"}, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}]:
        message = make(claude, ask, tools=[TOOL], tool_choice=choice, max_tokens=60)
        [use, *_] = [b for b in message.content if b.type == "tool_use"]
        assert message.stop_reason == "tool_use" and use.name == "weather"
        assert use.input["city"] in ("Rome", "Oslo")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny, 30 degrees"}
    said = ask + [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert make(claude, said, tools=[TOOL], tool_choice={"type": "none"}).content[0].text
    with claude.messages.stream(
        model=MODEL, messages=ask, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=60, extra_body=GREEDY
    ) as stream:
        final = stream.get_final_message()
    assert [b.input for b in final.content if b.type == "tool_use"][0]["city"] in ("Rome", "Oslo")


def test_structured_output(claude):
    schema = {
        "type": "object", "additionalProperties": False, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = make(claude, [{"role": "user", "content": "Anna is 31. Who is it?"}], output_config=config, max_tokens=80)
    assert set(json.loads(message.content[-1].text)) == {"name", "age"}
