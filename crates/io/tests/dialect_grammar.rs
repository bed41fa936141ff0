//! Grammars of calls: llguidance takes them, they admit what the dialect writes, and what they admit is read as calls.

use hob_io::{
    Tokenizer,
    chat::{Choice, Dialect, Piece, Reader, Tool},
    tokenizer::Spec,
};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie},
};
use serde_json::json;
use std::sync::Arc;

/// A vocabulary of bytes, and of these control tokens.
fn tokenizer(control: &[&str]) -> Tokenizer {
    // GPT-2's names of bytes: those printable stand for themselves, the others follow 255.
    let mut next = 256;
    let names = (0..=255u8).map(|b| {
        let printable = matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            b as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap().to_string()
    });
    let tokens: Vec<String> =
        names.chain(control.iter().map(|c| c.to_string())).chain(["<|end_of_text|>".into()]).collect();
    let mut spec = Spec::new("gpt2", Box::new(tokens.iter().map(|t| t.as_bytes())));
    spec.pre = Some("gpt-2");
    spec.token_type = Some(Box::new((0..tokens.len()).map(|i| if i < 256 { 1 } else { 3 })));
    spec.merges = Some(Box::new(std::iter::empty()));
    spec.eos = Some(tokens.len() as u64 - 1);
    Tokenizer::from_spec(spec).unwrap()
}

fn tools() -> Vec<Tool> {
    Tool::list(&json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]}},
            "required": ["city"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "find", "parameters": {"type": "object",
            "properties": {"tree": {"$ref": "#/$defs/tree"}, "deep": {"type": "boolean"}},
            "$defs": {"tree": {"type": "object", "properties": {"kids": {"type": "array", "items":
                {"$ref": "#/$defs/tree"}}}, "required": ["kids"], "additionalProperties": false}},
            "additionalProperties": false}}},
        {"type": "function", "function": {"name": "get_time"}},
    ]))
}

/// Whether a grammar admits a text as a whole, and how many of its tokens.
fn admits(tokenizer: &Tokenizer, grammar: &str, text: &str) -> (bool, String) {
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap().to_vec();
            if tokenizer.is_special(id) { [b"\xff", &bytes[..]].concat() } else { bytes }
        })
        .collect();
    let info = TokRxInfo::new(words.len() as u32, words.len() as u32 - 1);
    let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let mut factory = ParserFactory::new_simple(&env).unwrap();
    factory.quiet();
    let mut matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(grammar.into())));
    assert!(!matcher.is_error(), "{:?}\n{grammar}", matcher.get_error());
    let ids = tokenizer.encode(text, true);
    let taken = matcher.try_consume_tokens(&ids).unwrap();
    let whole = taken == ids.len() && matcher.is_accepting().unwrap();
    (whole, tokenizer.decode_with_special(&ids[..taken]))
}

#[test]
fn grammars_admit_calls_and_nothing_else() {
    // A template, control tokens, answers that are admitted and how many calls they hold, answers that are not.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, usize)], &'a [&'a str]);
    let cases: &[Case] = &[
        (
            "<tool_call>",
            &[],
            &[
                (
                    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}}\n</tool_call>",
                    1,
                ),
                (
                    "\n\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"tree\": {\"kids\": [{\"kids\": []}]}}}\n</tool_call>",
                    2,
                ),
            ],
            &[
                "Hello",
                "<tool_call>\n{\"name\": \"nope\"",
                "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"days\": 2}}\n</tool_call>",
                "<tool_call>\n{\"name\": \"find\", \"arguments\": {\"tree\": 1}}\n</tool_call>",
            ],
        ),
        (
            "<tool_call>",
            &["<tool_call>", "</tool_call>"],
            &[("<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>", 1)],
            &["{}"],
        ),
        (
            "<function=<parameter=<tool_call>",
            &[],
            &[
                (
                    "<tool_call>\n<function=get_weather>\n<parameter=city>\nPa<b>ris\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
                    1,
                ),
                (
                    "<tool_call>\n<function=get_time>\n</function>\n</tool_call>\n<tool_call>\n<function=find>\n<parameter=deep>\ntrue\n</parameter>\n</function>\n</tool_call>",
                    2,
                ),
            ],
            &[
                "<tool_call>\n<function=get_weather>\n</function>",
                "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\ntwo",
            ],
        ),
        (
            "<tool_call><arg_key>",
            &[],
            &[(
                "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
                1,
            )],
            &["<tool_call>get_weather\n</tool_call>"],
        ),
        (
            "<|python_tag|>",
            &[],
            &[(
                "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\", \"unit\": \"c\"}}; {\"name\": \"get_time\", \"parameters\": {}}",
                2,
            )],
            &["{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\", \"unit\": \"k\"}}"],
        ),
        (
            "<|python_start|>",
            &[],
            &[
                ("[get_weather(city=\"Paris\", days=2), find(deep=True)]", 2),
                ("[get_time()]", 1),
                ("[find()]", 1),
            ],
            &["[get_weather()]", "[find(deep=1)]"],
        ),
        (
            "<|tool_call_start|>",
            &["<|tool_call_start|>", "<|tool_call_end|>"],
            &[("<|tool_call_start|>[get_weather(city=\"Paris\"), get_time()]<|tool_call_end|>", 2)],
            &["[get_time()]"],
        ),
        (
            "<TOOLCALL></TOOLCALL>",
            &[],
            &[(
                "<TOOLCALL>[{\"name\": \"get_time\", \"arguments\": {}}, {\"name\": \"get_time\", \"arguments\": {}}]</TOOLCALL>",
                2,
            )],
            &["<TOOLCALL>{"],
        ),
        (
            "<|tool_call|>",
            &["<|tool_call|>"],
            &[("<|tool_call|>[{\"name\": \"get_time\", \"arguments\": {}}]", 1)],
            &["[{"],
        ),
        (
            "[TOOL_CALLS]",
            &["[TOOL_CALLS]"],
            &[(
                "[TOOL_CALLS] [{\"name\": \"get_time\", \"arguments\": {}}, {\"name\": \"get_time\", \"arguments\": {}}]",
                2,
            )],
            &["[{"],
        ),
        (
            "[TOOL_CALLS][ARGS]",
            &["[TOOL_CALLS]", "[ARGS]"],
            &[("[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]get_time[ARGS]{}", 2)],
            &["[TOOL_CALLS]get_weather[ARGS]{}"],
        ),
        (
            "<start_function_call>",
            &["<start_function_call>", "<end_function_call>", "<escape>"],
            &[
                (
                    "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2,unit:<escape>c<escape>}<end_function_call>",
                    1,
                ),
                ("<start_function_call>call:get_time{}<end_function_call>", 1),
            ],
            &["<start_function_call>call:get_weather{}"],
        ),
        (
            "<|channel|><|message|>",
            &["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|end|>"],
            &[
                (
                    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>",
                    1,
                ),
                (
                    "<|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{}<|call|>",
                    1,
                ),
            ],
            &[
                "<|channel|>final<|message|>",
                "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}",
            ],
        ),
        (
            "<｜tool▁call▁begin｜>```json",
            &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            &[(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                2,
            )],
            &["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time"],
        ),
        (
            "<｜tool▁call▁begin｜>",
            &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            &[(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                1,
            )],
            &["<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"],
        ),
        (
            "<|tool_call_begin|>",
            &[
                "<|tool_calls_section_begin|>",
                "<|tool_call_begin|>",
                "<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
                "<|tool_calls_section_end|>",
            ],
            &[(
                "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
                1,
            )],
            &["<|tool_calls_section_begin|><|tool_call_begin|>get_time"],
        ),
        (
            "<|START_ACTION|>",
            &["<|START_ACTION|>", "<|END_ACTION|>"],
            &[("<|START_ACTION|>[{\"tool_name\": \"get_time\", \"parameters\": {}}]<|END_ACTION|>", 1)],
            &["<|START_ACTION|>[]"],
        ),
        ("", &[], &[("{\"name\": \"get_time\", \"arguments\": {}}", 1)], &["{\"name\": \"get_time\"}"]),
    ];
    let tools = tools();
    for (template, control, good, bad) in cases {
        let tokenizer = tokenizer(control);
        let dialect = Dialect::of(Some(template), Some(&tokenizer));
        let grammar = dialect.call_grammar(&tools, &Choice::Required, true).unwrap();
        for (text, count) in *good {
            let (whole, taken) = admits(&tokenizer, &grammar, text);
            assert!(whole, "{:?} takes {taken:?} of {text:?}\n{grammar}", dialect.family);
            // What the decoder leaves of the tokens is enough to read the calls.
            let mut decoder = tokenizer.decoder_with(&dialect.spelled_ids());
            let mut reader = Reader::new(&dialect, &tools, "<|start|>assistant");
            let mut pieces = Vec::new();
            for id in tokenizer.encode(text, true) {
                pieces.extend(reader.push(&decoder.push(id)));
            }
            pieces.extend(reader.finish());
            let calls = pieces.iter().filter(|piece| matches!(piece, Piece::Call(_))).count();
            let others =
                pieces.iter().filter(|piece| matches!(piece, Piece::Text(t) if !t.trim().is_empty())).count();
            assert_eq!((calls, others), (*count, 0), "{text:?}: {pieces:?}");
            if *count > 1 && dialect.family != hob_io::chat::Family::Generic {
                let single = dialect.call_grammar(&tools, &Choice::Required, false).unwrap();
                assert!(!admits(&tokenizer, &single, text).0, "{text:?} is one call");
            }
        }
        for text in *bad {
            assert!(!admits(&tokenizer, &grammar, text).0, "{:?} takes {text:?}\n{grammar}", dialect.family);
        }
        let named = dialect.call_grammar(&tools, &Choice::Named("get_weather".into()), false).unwrap();
        assert!(named.contains("get_weather") && !named.contains("get_time"));
        assert_eq!(dialect.call_grammar(&tools, &Choice::Named("nope".into()), false), None);
    }
}

#[test]
fn control_tokens_are_spelled_and_turns_end() {
    let tokenizer = tokenizer(&["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|pad|>"]);
    let dialect = Dialect::of(None, Some(&tokenizer));
    let id = |name: &str| tokenizer.special_id(name).unwrap();
    let spelled = dialect.spelled_ids();
    assert!(spelled.contains(&id("<|channel|>")) && !spelled.contains(&id("<|pad|>")));
    let ends = dialect.end_ids(&tokenizer);
    assert!(
        ends.contains(&id("<|call|>"))
            && !ends.contains(&id("<|end|>"))
            && ends.contains(&id("<|end_of_text|>"))
    );
    let mut decoder = tokenizer.decoder_with(&spelled);
    let text: String = tokenizer
        .encode("<|pad|><|channel|>a<|end_of_text|>", true)
        .iter()
        .map(|&id| decoder.push(id))
        .collect();
    assert_eq!(text, "<|channel|>a");
}
