//! Messages of OpenAI's API become what templates take, whatever these make of tools.

use hob_io::chat::{Chat, Family, Options, Prepared};
use serde_json::{Value, json};

fn prepare(template: &str, messages: &Value, tools: Option<&Value>) -> (Prepared, String) {
    let chat = Chat::new(Some(template), "<s>", "</s>");
    let prepared = chat.prepare(&chat.dialect(None), messages.as_array().unwrap(), tools).unwrap();
    let options =
        Options { add_generation_prompt: true, tools: prepared.tools.clone(), ..Options::default() };
    let rendered = chat.render_with(&prepared.messages, &options).unwrap();
    assert_eq!(rendered.note, None, "{template}");
    (prepared, rendered.text)
}

fn golden(name: &str) -> String {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/tokenizer/chat.json")).unwrap();
    golden["templates"][name]["source"].as_str().unwrap().into()
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])
}

/// A chat with two calls, whose results come in the other order, and thoughts.
fn called() -> Value {
    let call = |id: &str, city: &str| {
        let arguments = json!({"city": city}).to_string();
        json!({"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}})
    };
    json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Paris?"}, {"type": "text", "text": "Rome?"}]},
        {"role": "assistant", "content": null, "refusal": null, "reasoning_content": "Two cities.",
            "tool_calls": [call("call_a", "Paris"), call("call_b", "Rome")]},
        {"role": "tool", "tool_call_id": "call_b", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_a", "content": [{"type": "text", "text": "sun"}]},
    ])
}

#[test]
fn templates_that_know_tools() {
    let (prepared, text) = prepare(&golden("qwen3"), &called(), Some(&tools()));
    assert_eq!((prepared.note, prepared.dialect.family), (None, Family::Hermes));
    let want = "<|im_start|>assistant\n\n<tool_call>\n{\"name\": \"get_weather\", \
                \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \
                \"arguments\": {\"city\": \"Rome\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n\
                <tool_response>rain</tool_response><tool_response>sun</tool_response><|im_end|>\n";
    assert!(text.contains(want), "{text}");
    assert!(text.contains("Tells the weather.") && text.contains("Paris?\nRome?"), "{text}");

    // A template that cuts thoughts out of contents itself.
    let cuts = "{{ tools | tojson if tools }}{% for m in messages %}{{ m.content.split('</think>')[0] }}|\
                {{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}";
    let (_, text) = prepare(cuts, &called(), Some(&tools()));
    assert!(text.contains("|<think>\nTwo cities.\n|[{\"id\": \"call_a\""), "{text}");

    let (prepared, text) = prepare(&golden("llama3"), &called(), Some(&tools()));
    assert_eq!(prepared.dialect.family, Family::Llama);
    assert!(text.contains(r#"{"name": "get_weather", "parameters": {"city": "Rome"}}"#), "{text}");
    assert_eq!(prepared.messages[3].extra["name"], "get_weather");
}

#[test]
fn templates_that_know_no_tools() {
    for name in ["smollm2", "gemma3", "llama2"] {
        let (prepared, text) = prepare(&golden(name), &called(), Some(&tools()));
        assert!(prepared.note.unwrap().contains("no tools"));
        assert_eq!((prepared.dialect.family, prepared.tools), (Family::Hermes, None));
        for part in [
            "Be brief.\n\n# Tools",
            "\"description\":\"Tells the weather.\"",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Paris\"}}\n</tool_call>\n<tool_call>",
            "<tool_response>\nrain\n</tool_response>\n\n<tool_response>\nsun\n</tool_response>",
        ] {
            assert!(text.contains(part), "{name} lacks {part:?}:\n{text}");
        }
        // Without tools offered, earlier calls are told in text all the same, and nothing is noted.
        let (prepared, text) = prepare(&golden(name), &called(), None);
        assert_eq!(prepared.note, None);
        assert!(text.contains("</tool_call>") && !text.contains("# Tools"), "{text}");
    }
}

/// As Mistral's: ids of nine characters, text for arguments only.
const NINE: &str = "{% for m in messages %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}\
    {% if c.id | length != 9 %}{{ raise_exception('nine!') }}{% endif %}\
    [TOOL_CALLS]{{ c.function.name + c.function.arguments + c.id }}{% endfor %}\
    {% elif m.role == 'tool' %}[R {{ m.tool_call_id }} {{ m.name }} {{ m.content }}]\
    {% else %}[{{ m.role }} {{ m.content }}]{% endif %}{% endfor %}{{ tools | tojson if tools }}";

/// One call a message, thoughts in a field, roles that alternate.
const ONE: &str = "{{ tools | tojson if tools }}{% for m in messages %}{% if m.tool_calls %}\
    {% if m.tool_calls | length > 1 %}{{ raise_exception('one!') }}{% endif %}\
    <think>{{ m.thinking }}</think>{{ m.tool_calls[0].function | tojson }}\
    {% elif m.role == 'user' and loop.previtem is defined and loop.previtem.role == 'user' %}{{ raise_exception('twice!') }}\
    {% else %}[{{ m.role }} {{ m.content }}]{% endif %}{% endfor %}";

#[test]
fn what_templates_insist_on() {
    let (prepared, text) = prepare(NINE, &called(), Some(&tools()));
    let id = |i: usize| prepared.messages[i].extra["tool_call_id"].as_str().unwrap();
    assert!(id(3).len() == 9 && id(4).len() == 9 && id(3) != id(4));
    let calls = prepared.messages[2].extra["tool_calls"].as_array().unwrap();
    assert_eq!((calls[0]["id"].as_str(), calls[1]["id"].as_str()), (Some(id(4)), Some(id(3))));
    assert!(text.contains(&format!("get_weather{{\"city\":\"Paris\"}}{}", id(4))), "{text}");
    assert!(text.contains(&format!("[R {} get_weather rain]", id(3))), "{text}");

    let mut messages = called();
    messages
        .as_array_mut()
        .unwrap()
        .extend([json!({"role": "user", "content": "And"}), json!({"role": "user", "content": "now?"})]);
    let (_, text) = prepare(ONE, &messages, Some(&tools()));
    let want = "[user Paris?\nRome?]<think>Two cities.</think>{\"name\": \"get_weather\", \"arguments\": {\"city\": \
                \"Paris\"}}[tool sun]<think></think>{\"name\": \"get_weather\", \"arguments\": {\"city\": \
                \"Rome\"}}[tool rain][user And\n\nnow?]";
    assert!(text.ends_with(want), "{text}");
}

#[test]
fn what_is_no_message_is_told() {
    let chat = Chat::new(None, "", "");
    let error = |message: Value| chat.prepare(&chat.dialect(None), &[message], None).unwrap_err().to_string();
    for (message, why) in [
        (json!("hi"), "message 1 is no object"),
        (json!({"content": "hi"}), "message 1 has no role"),
        (json!({"role": "user", "content": 1}), "neither text nor"),
        (json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}), "\"image_url\""),
        (json!({"role": "assistant", "tool_calls": {}}), "no list"),
        (json!({"role": "assistant", "tool_calls": [{"id": "a"}]}), "without a name"),
    ] {
        let error = error(message);
        assert!(error.contains(why) && !error.contains('\n'), "{error}");
    }
}
