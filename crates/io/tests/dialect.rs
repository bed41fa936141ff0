//! What models write becomes text, thoughts and calls, however it is cut. Answers after those that llama.cpp
//! (tests/test-chat.cpp) and vLLM (tests/tool_parsers) test with.

#[path = "../../../fuzz/dialect.rs"]
mod target;

use hob_io::chat::{Dialect, Family, Piece, Reader, Tool};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

fn tools() -> Vec<Tool> {
    let tool = |name: &str, properties: Value| {
        json!({"type": "function", "function": {"name": name, "description": "d",
            "parameters": {"type": "object", "properties": properties}}})
    };
    Tool::list(&json!([
        tool("get_weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool("get_time", json!({})),
        tool("write_file", json!({"path": {"type": "string"}, "content": {"type": "string"}, "mode": {}})),
        tool("python", json!({"code": {"type": "string"}})),
    ]))
}

/// Pieces, one a line and neighbours of a kind joined: `T` text, `R` thought, `C` call. Markers are left out.
fn told(pieces: &[Piece]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for piece in pieces {
        let (kind, text) = match piece {
            Piece::Text(text) => ("T ", text.clone()),
            Piece::Thought(text) => ("R ", text.clone()),
            Piece::Call(call) => {
                let value: Value = serde_json::from_str(&call.arguments).expect("arguments are JSON");
                assert!(value.is_object(), "{value}");
                let id = call.id.as_deref().map_or(String::new(), |id| format!(" #{id}"));
                out.push(format!("C {}{value}{id}", call.name));
                continue;
            }
            Piece::Mark(_) => continue,
        };
        match out.last_mut() {
            Some(last) if last.starts_with(kind) => last.push_str(&text),
            _ => out.push(format!("{kind}{text}")),
        }
    }
    out
}

fn read<'t>(
    dialect: &Dialect,
    tools: &[Tool],
    prompt: &str,
    parts: impl IntoIterator<Item = &'t str>,
) -> Vec<Piece> {
    let mut reader = Reader::new(dialect, tools, prompt);
    let mut pieces: Vec<Piece> = parts.into_iter().flat_map(|part| reader.push(part)).collect();
    pieces.extend(reader.finish());
    pieces
}

/// Reads a text whole, in every two parts, and character by character: always the same, and nothing is lost.
fn check(dialect: &Dialect, tools: &[Tool], prompt: &str, text: &str, want: &[&str]) {
    let whole = read(dialect, tools, prompt, [text]);
    assert_eq!(told(&whole), want, "{:?} of {text:?}", dialect.family);
    let mut cuts: Vec<Vec<&str>> =
        text.char_indices().map(|(at, _)| vec![&text[..at], &text[at..]]).collect();
    cuts.push(text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect());
    for parts in cuts {
        let pieces = read(dialect, tools, prompt, parts.iter().copied());
        assert_eq!(told(&pieces), want, "{:?} of {parts:?}", dialect.family);
        assert_eq!(pieces.iter().map(Piece::written).collect::<String>(), text, "{parts:?}");
    }
}

fn dialect(template: &str) -> Dialect {
    Dialect::of(Some(template), None)
}

const HERMES: &str = "<tool_call>\n<think>";
const CODER: &str = "<tool_call><function=x><parameter=y>";
const LLAMA: &str = "<|start_header_id|><|python_tag|>";
const LLAMA4: &str = "<|header_start|><|python_start|>";
const MISTRAL: &str = "[TOOL_CALLS]";
const MISTRAL_ARGS: &str = "[TOOL_CALLS][ARGS][THINK]";
const GEMMA: &str = "<start_of_turn>";
const FUNCTION_GEMMA: &str = "<start_of_turn><start_function_call>";
const GEMMA4: &str = "<|tool_call>call:<tool_call|><|channel>thought\n<channel|>";
const HARMONY: &str = "<|start|><|channel|><|message|>";
const DEEPSEEK: &str = "<｜tool▁call▁begin｜>```json</think>";
const DEEPSEEK31: &str = "<｜tool▁call▁begin｜></think>";
const KIMI: &str = "<|tool_call_begin|>";
const GLM: &str = "<tool_call><arg_key><think>";
const COHERE: &str = "<|START_ACTION|><|START_THINKING|>";

#[test]
fn real_answers() {
    let paris = r#"C get_weather{"city":"Paris"}"#;
    let time = "C get_time{}";
    let cases: &[(&str, &str, &[&str])] = &[
        // Hermes, Qwen 2.5, Qwen 3
        (HERMES, "Hello, world!\nWhat's up?", &["T Hello, world!\nWhat's up?"]),
        (
            HERMES,
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
            &[paris],
        ),
        (
            HERMES,
            "<think>\nThe user\nasks.\n</think>\n\nI'll look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>",
            &["R The user\nasks.", "T I'll look.", paris, time],
        ),
        (HERMES, "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}", &[paris]),
        (
            HERMES,
            "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}</tool_call> Done.",
            &[paris, "T Done."],
        ),
        (
            HERMES,
            "<tool_call>{\"name\": \"get_weather\", \"arguments\": \"{\\\"city\\\": \\\"Paris\\\"}\"}</tool_call>",
            &[paris],
        ),
        (
            HERMES,
            "<tool_call>{\"arguments\": {\"city\": \"Paris\"}, \"name\": \"get_weather\"}</tool_call>",
            &[paris],
        ),
        (HERMES, "<tool_call>{\"name\": \"get_time\"}</tool_call>", &[time]),
        (
            HERMES,
            "<tool_call>\n```json\n{\"name\": \"get_time\", \"arguments\": {}}\n```\n</tool_call>",
            &[time],
        ),
        (
            HERMES,
            "```xml\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>\n```\nok",
            &[time, "T ok"],
        ),
        (
            HERMES,
            "<tool_call>[{\"name\": \"get_time\", \"arguments\": {}}, {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}]</tool_call>",
            &[time, paris],
        ),
        (
            HERMES,
            "<tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>",
            &["T <tool_call>\n", time],
        ),
        (
            HERMES,
            "<tool_call>{\"name\": \"write_file\", \"arguments\": {\"path\": \"a\", \"content\": \"1\n2\"}}</tool_call>",
            &[r#"C write_file{"path":"a","content":"1\n2"}"#],
        ),
        (HERMES, "{\"name\": \"get_time\", \"arguments\": {}}", &[time]),
        (
            HERMES,
            "<tool_call>{\"name\": \"get_time\", \"arguments\": {}}{\"name\": \"get_time\", \"arguments\": {}}</tool_call>",
            &[time, time],
        ),
        (
            HERMES,
            "<tool_call>{\"name\": \"no_such\", \"arguments\": {}}</tool_call>",
            &["T <tool_call>{\"name\": \"no_such\", \"arguments\": {}}</tool_call>"],
        ),
        (
            HERMES,
            "<tool_call>{\"name\": \"get_time\", \"arguments\": {]}</tool_call>",
            &["T <tool_call>{\"name\": \"get_time\", \"arguments\": {]}</tool_call>"],
        ),
        (
            HERMES,
            "<tool_call>{\"name\": \"get_time\", \"argu",
            &["T <tool_call>{\"name\": \"get_time\", \"argu"],
        ),
        (
            HERMES,
            "The tag <think> and <tool_call> are tags. 1 < 2",
            &["T The tag <think> and <tool_call> are tags. 1 < 2"],
        ),
        (
            HERMES,
            "<think>\nnever ends: <tool_call>{\"name\": \"get_time\"}</tool_call>\n",
            &["R never ends: <tool_call>{\"name\": \"get_time\"}</tool_call>\n"],
        ),
        (HERMES, "<function_call>{\"name\": \"get_time\", \"arguments\": null}</function_call>", &[time]),
        (
            HERMES,
            "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"get_time\", \"arguments\": {}}}</tool_call>",
            &[time],
        ),
        // Qwen3-Coder
        (
            CODER,
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            &[r#"C get_weather{"city":"Paris","days":3}"#],
        ),
        (
            CODER,
            "Sure.\n\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
            &["T Sure.", paris, "T </tool_call>"],
        ),
        (
            CODER,
            "<tool_call>\n<function=write_file>\n<parameter=path>\n42\n</parameter>\n<parameter=content>\n<parameter=x>\n</parameter> \"q\"\n\n</parameter>\n<parameter=mode>\nFalse\n</parameter>\n</function>\n</tool_call>",
            &[r#"C write_file{"path":"42","content":"<parameter=x>\n</parameter> \"q\"\n","mode":false}"#],
        ),
        (
            CODER,
            "<tool_call>\n<function=get_time>\n</function>\n</tool_call>\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n",
            &[time, paris],
        ),
        (
            CODER,
            "<tool_call>\n<function=nope>\n</function>\n</tool_call>",
            &["T <tool_call>\n<function=nope>\n</function>\n</tool_call>"],
        ),
        // Llama
        (LLAMA, "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}", &[paris]),
        (
            LLAMA,
            "<|python_tag|>{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}",
            &[paris],
        ),
        (
            LLAMA,
            "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}; {\"name\": \"get_time\", \"parameters\": {}}",
            &[paris, time],
        ),
        (LLAMA, "[{\"name\": \"get_time\", \"parameters\": {}}]", &[time]),
        (
            LLAMA,
            "Here it is:\n{\"name\": \"get_time\", \"parameters\": {}}\nDone",
            &["T Here it is:", time, "T Done"],
        ),
        (LLAMA, "<function=get_weather>{\"city\": \"Paris\"}</function>", &[paris]),
        (LLAMA, "[get_weather(city='Paris'), get_time()]", &[paris, time]),
        (
            LLAMA,
            "{\"answer\": [\n{\"name\": \"get_time\", \"parameters\": {}}]}",
            &["T {\"answer\": [\n{\"name\": \"get_time\", \"parameters\": {}}]}"],
        ),
        (LLAMA, "{\"name\": \"John\", \"parameters\": {}}", &["T {\"name\": \"John\", \"parameters\": {}}"]),
        (LLAMA, "{\"name\": \"get_time\"}", &["T {\"name\": \"get_time\"}"]),
        (LLAMA, "<|python_tag|>print(1)", &["T <|python_tag|>print(1)"]),
        // Llama 4, and what Python can write
        (LLAMA4, "<|python_start|>[get_weather(city='Paris'), get_time()]<|python_end|>", &[paris, time]),
        (
            LLAMA4,
            "[write_file(path=\"Martha's\", content='\\'x\\' \\u00e9\\n', mode={'a': [1, 2.5, None, True], 'b': {}})]",
            &[r#"C write_file{"path":"Martha's","content":"'x' é\n","mode":{"a":[1,2.5,null,true],"b":{}}}"#],
        ),
        (LLAMA4, "[1] is a reference, [get_time] too", &["T [1] is a reference, [get_time] too"]),
        (LLAMA4, "[get_weather(city=1e999)]", &["T [get_weather(city=1e999)]"]),
        (LLAMA4, "[get_weather(city='Paris'", &["T [get_weather(city='Paris'"]),
        // Mistral
        (
            MISTRAL,
            "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"abcdefghi\"}]",
            &[r#"C get_weather{"city":"Paris"} #abcdefghi"#],
        ),
        (
            MISTRAL,
            "Hello[TOOL_CALLS][{\"arguments\": {\"city\": \"Paris\"}, \"name\": \"get_weather\"}]\nextra",
            &["T Hello", paris, "T extra"],
        ),
        (MISTRAL, "[TOOL_CALLS] not json at all", &["T [TOOL_CALLS] not json at all"]),
        (
            MISTRAL_ARGS,
            "[THINK]Hm.[/THINK]Now[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{\"city\": \"Paris\"}",
            &["R Hm.", "T Now", r#"C get_weather{"city":"Paris"} #123456789"#],
        ),
        (
            MISTRAL_ARGS,
            "[TOOL_CALLS]get_weather{\"city\": \"Paris\"}[TOOL_CALLS]get_time[ARGS]{}",
            &[paris, time],
        ),
        (MISTRAL_ARGS, "[TOOL_CALLS]nope[ARGS]{}", &["T [TOOL_CALLS]nope[ARGS]{}"]),
        // Gemma
        (GEMMA, "```tool_code\nget_weather(city=\"Paris\")\n```", &[paris]),
        (
            GEMMA,
            "Let me see.\n```tool_code\nprint(get_weather(city=\"Paris\"))\nget_time()\n```",
            &["T Let me see.", paris, time],
        ),
        (
            GEMMA,
            "```json\n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}\n```\n",
            &[paris],
        ),
        (
            GEMMA,
            "```json\n{\"a\": 1}\n```\n```python\nprint(1)\n```\n",
            &["T ```json\n{\"a\": 1}\n```\n```python\nprint(1)\n```\n"],
        ),
        (
            FUNCTION_GEMMA,
            "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
            &[paris],
        ),
        (
            FUNCTION_GEMMA,
            "<start_function_call>call:write_file{mode:{deep:true,n:[1,<escape>a,b}<escape>]},path:<escape>x<escape>}<end_function_call><start_function_call>call:get_time{}<end_function_call>",
            &[r#"C write_file{"mode":{"deep":true,"n":[1,"a,b}"]},"path":"x"}"#, time],
        ),
        (
            GEMMA4,
            "<|channel>thought\nHm.\n<channel|><|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>}<tool_call|>",
            &["R Hm.", paris],
        ),
        // gpt-oss
        (
            HARMONY,
            "<|channel|>analysis<|message|>I'm\nthinking<|end|><|start|>assistant<|channel|>final<|message|>Hello, world!",
            &["R I'm\nthinking", "T Hello, world!"],
        ),
        (
            HARMONY,
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>",
            &["R Hm", paris],
        ),
        (
            HARMONY,
            " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Paris\"}",
            &[paris],
        ),
        (
            HARMONY,
            "<|channel|>commentary<|message|>First the weather.<|end|><|start|>assistant to=functions.get_time<|channel|>analysis<|message|>{}<|call|>",
            &["T First the weather.", time],
        ),
        (
            HARMONY,
            "<|channel|>commentary to=functions.nope <|constrain|>json<|message|>{}<|call|>",
            &["T <|channel|>commentary to=functions.nope <|constrain|>json<|message|>{}"],
        ),
        (
            HARMONY,
            "<|channel|>commentary to=functions.get_time<|message|>{oops}<|call|>",
            &["T <|channel|>commentary to=functions.get_time<|message|>{oops}"],
        ),
        (HARMONY, "Just text <b>", &["T Just text <b>"]),
        // DeepSeek
        (
            DEEPSEEK,
            "Look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["T Look.", paris, time],
        ),
        (
            DEEPSEEK31,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[paris, time],
        ),
        (
            KIMI,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Paris\"}<|tool_call_end|><|tool_calls_section_end|>",
            &[r#"C get_weather{"city":"Paris"} #functions.get_weather:0"#],
        ),
        (
            GLM,
            "<think>Hm</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><tool_call>get_time\n</tool_call>",
            &["R Hm", r#"C get_weather{"city":"Paris","days":2}"#, time],
        ),
        (
            COHERE,
            "<|START_THINKING|>Plan.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}\n]<|END_ACTION|>",
            &["R Plan.", r#"C get_weather{"city":"Paris"} #0"#],
        ),
        (COHERE, "<|START_RESPONSE|>Hello<|END_RESPONSE|>", &["T Hello"]),
        ("", "```json\n{\"name\": \"get_time\", \"arguments\": {}}\n```", &[time]),
    ];
    for (template, text, want) in cases {
        let prompt = if *template == HARMONY { "<|start|>assistant" } else { "<|im_start|>assistant\n" };
        check(&dialect(template), &tools(), prompt, text, want);
    }
}

#[test]
fn thoughts_that_the_prompt_begins_or_ends() {
    let hermes = dialect(HERMES);
    check(&hermes, &tools(), "…assistant\n<think>\n", "Hm.\n</think>\n\nYes.", &["R Hm.", "T Yes."]);
    check(&hermes, &tools(), "…<think>\n", "<think>\nHm.</think>Yes.", &["R Hm.", "T Yes."]);
    check(&hermes, &[], "…<think>\n\n</think>\n\n", "Yes </think>.", &["T Yes </think>."]);
    let harmony = dialect(HARMONY);
    let prompt = "<|start|>assistant<|channel|>final<|message|>";
    check(&harmony, &tools(), prompt, "Yes.<|return|>", &["T Yes."]);
    let prompt = "<|start|>assistant<|channel|>analysis<|message|>Well";
    check(&harmony, &tools(), prompt, ", hm.<|end|>", &["R , hm."]);
}

#[test]
fn without_tools_calls_are_text_and_thoughts_are_thoughts() {
    let call = "<tool_call>{\"name\": \"get_time\", \"arguments\": {}}</tool_call>";
    let text = format!("<think>a</think>{call}");
    check(&dialect(HERMES), &[], "", &text, &["R a", &format!("T {call}")]);
    let call = "<|channel|>commentary to=functions.get_time<|message|>{}";
    check(&dialect(HARMONY), &[], "<|start|>assistant", call, &[&format!("T {call}")]);
}

#[test]
fn text_is_handed_on_at_once() {
    let mut reader = Reader::new(&dialect(LLAMA), &tools(), "");
    for (push, want) in [
        ("Hello", "Hello"),
        (" <|py", ""),
        ("thon", ""),
        ("ic", " <|pythonic"),
        (" {\"a\"", " {\"a\""),
        ("\n", ""),
        ("{\"ans", "\n{\"ans"),
        ("wer\": 4", "wer\": 4"),
        ("2}", "2}"),
    ] {
        let text: String = reader.push(push).iter().map(Piece::written).collect();
        assert_eq!(text, want, "after {push:?}");
    }
    assert!(reader.finish().is_empty());
    assert!(Reader::new(&dialect(HERMES), &tools(), "<think>").in_thought());
}

#[test]
fn families_are_recognised() {
    let families = [
        (HERMES, Family::Hermes),
        (CODER, Family::Qwen3Coder),
        (LLAMA, Family::Llama),
        (LLAMA4, Family::Pythonic),
        (MISTRAL, Family::Mistral),
        (MISTRAL_ARGS, Family::MistralArgs),
        (GEMMA, Family::Gemma),
        (FUNCTION_GEMMA, Family::FunctionGemma),
        (GEMMA4, Family::Gemma4),
        (HARMONY, Family::Harmony),
        (DEEPSEEK, Family::DeepSeek),
        (DEEPSEEK31, Family::DeepSeek31),
        (KIMI, Family::Kimi),
        (GLM, Family::Glm),
        (COHERE, Family::Cohere),
        ("{{ messages }}", Family::Generic),
    ];
    for (template, family) in families {
        assert_eq!(dialect(template).family, family, "{template}");
    }
    assert_eq!(dialect(HERMES).thought(), Some(("<think>", "</think>")));
    assert_eq!(dialect(MISTRAL_ARGS).thought(), Some(("[THINK]", "[/THINK]")));
    assert_eq!(dialect(LLAMA).thought(), None);
}

/// A megabyte of what begins a call and never becomes one, whole and in parts: time is linear.
#[test]
fn hostile_answers_take_linear_time() {
    let units = [
        "<tool_call>",
        "<tool_call>{\"name\":",
        "<tool_call>{\"a\":\"",
        "<tool_call>[",
        "<tool_call>{\"a\":[",
        "{",
        "[",
        "\n[get_time(",
        "\n```json\n{\"name\": \"get_time\",",
        "\n```tool_code\nget_time(",
        " ",
        "\n",
        "<think>",
        "<tool_call><function=get_time><parameter=a></parameter>x",
        "<function=get_time><parameter=a></parameter>   ",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
        "<|channel|>",
        "<|start|>assistant<|channel|>commentary to=functions.get_time<|message|>{\"a\":[",
        "<start_function_call>call:get_time{",
        "[TOOL_CALLS]get_time[ARGS]",
        "[TOOL_CALLS][{\"name\": \"get_time\", \"arguments\": {}},",
    ];
    let templates = [HERMES, LLAMA, MISTRAL_ARGS, HARMONY, DEEPSEEK, FUNCTION_GEMMA, CODER, "{{ messages }}"];
    for unit in units {
        let text = unit.repeat((1 << 20) / unit.len());
        for template in templates {
            for size in [1 << 21, 5] {
                let start = Instant::now();
                let mut reader = Reader::new(&dialect(template), &tools(), "");
                let mut written = 0;
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let (part, after) = rest.split_at(rest.ceil_char_boundary(size));
                    written += reader.push(part).iter().map(|p| p.written().len()).sum::<usize>();
                    rest = after;
                }
                written += reader.finish().iter().map(|p| p.written().len()).sum::<usize>();
                assert_eq!(written, text.len());
                let took = start.elapsed();
                assert!(took.as_secs() < 5, "{template} took {took:?} for {unit:?} in parts of {size}");
            }
        }
    }
    let deep = format!("<tool_call>{{\"name\":\"get_time\",\"arguments\":{}", "{\"a\":".repeat(200_000));
    check(&dialect(HERMES), &tools(), "", &deep[..2000], &[&format!("T {}", &deep[..2000])]);
    let deep = format!("[get_time(a={}", "[".repeat(200_000) + &"]".repeat(200_000) + ")]");
    assert_eq!(told(&read(&dialect(LLAMA4), &tools(), "", [&*deep])), [format!("T {deep}")]);
}

/// Texts of pieces that matter to some dialect.
fn answers() -> impl Strategy<Value = String> {
    let words = prop::sample::select(target::WORDS.to_vec());
    let part = prop_oneof![8 => words.prop_map(String::from), 1 => "\\PC{0,4}"];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_make_no_difference(which in any::<u8>(), text in answers(), cuts in prop::collection::vec(1usize..9, 1..6)) {
        target::read(which, &text, &cuts);
    }
}

#[test]
fn the_fuzzers_seeds_are_read() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/dialect");
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        target::dialect(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 4);
}
