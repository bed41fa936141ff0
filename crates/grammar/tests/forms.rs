//! Forms of every kind, thoughts before answers, and what is refused.

mod common;

use common::{Random, invalid, smollm2};
use hob_grammar::{Error, Form, Grammar, Thought, Vocabulary};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn grammar(form: Form) -> Grammar {
    Grammar::new(&smollm2().1, &form).unwrap()
}

fn schema(schema: Value) -> Grammar {
    grammar(Form::JsonSchema(schema))
}

/// Whether the answer may begin with the text, token by token.
fn takes(grammar: &Grammar, text: &str) -> bool {
    let mut grammar = grammar.clone();
    smollm2().0.encode(text, true).iter().all(|id| grammar.accept(*id).is_ok())
}

/// Whether the text is a whole answer.
fn whole(grammar: &Grammar, text: &str) -> bool {
    let mut grammar = grammar.clone();
    smollm2().0.encode(text, true).iter().all(|id| grammar.accept(*id).is_ok()) && grammar.may_end()
}

fn refusal(form: Form) -> String {
    match Grammar::new(&smollm2().1, &form) {
        Err(Error::Form(text)) => text,
        other => panic!("{form:?} is not refused: {other:?}"),
    }
}

#[test]
fn any_object() {
    let g = grammar(Form::JsonObject);
    for text in ["{}", r#"{"a": [1, {"b": null}], "c": -1.5e3}"#, "{\n  \"a\": \"b\\n\",\n  \"c\": true\n}"] {
        assert!(whole(&g, text), "{text}");
    }
    for text in ["[]", "1", "{a", r#"{"a":tru3"#, "\n{", r#"{"a" "b""#] {
        assert!(!takes(&g, text), "{text}");
    }
}

#[test]
fn a_closed_object_ends_the_answer() {
    let mut g = schema(json!({"type": "object", "properties": {"a": {"type": "integer"}}}));
    for id in smollm2().0.encode(r#"{"a": 1}"#, false) {
        assert!(!g.ended());
        g.accept(id).unwrap();
    }
    assert!(g.ended() && g.may_end());
    assert!(g.forced().is_empty());
    let end = smollm2().0.eos_ids()[0];
    assert!(g.mask().unwrap().allows(end));
    assert!(g.mask().unwrap().ids().all(|id| smollm2().0.eos_ids().contains(&id)));
    g.accept(end).unwrap();
    assert!(g.accept(smollm2().0.encode("a", false)[0]).is_err());
}

#[test]
fn a_regular_expression_is_the_whole_answer() {
    let g = grammar(Form::Regex("(yes|no), [a-z]{2,4}/[0-9]".into()));
    assert!(whole(&g, "yes, ab/1") && !whole(&g, "yes, ab/") && !takes(&g, "maybe") && !takes(&g, " yes"));
    let g = grammar(Form::Regex("[ab]+".into()));
    let mut more = g.clone();
    assert!(!more.may_end());
    more.accept(smollm2().0.encode("ab", false)[0]).unwrap();
    assert!(more.may_end() && !more.ended());
    more.accept(smollm2().0.eos_ids()[0]).unwrap();
    assert!(more.ended());
    assert!(g.clone().accept(smollm2().0.eos_ids()[0]).is_err(), "an end before the first letter");
}

#[test]
fn a_grammar_with_a_schema_and_control_tokens() {
    let text = "start: <|im_start|> \"answer: \" json\njson: %json {\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\"}}, \
                \"required\": [\"n\"], \"additionalProperties\": false}";
    let g = grammar(Form::Lark(text.into()));
    assert!(takes(&g, "<|im_start|>answer: {\"n\": 3}"));
    assert!(!takes(&g, "answer"));
}

/// No text of an answer is a control token, not even where a string may hold everything.
#[test]
fn control_tokens_are_no_text() {
    let (tokenizer, vocabulary) = smollm2();
    let mut g = schema(json!({"type": "string"}));
    g.accept(tokenizer.encode("\"", false)[0]).unwrap();
    let mask = g.mask().unwrap().clone();
    let special = (0..vocabulary.size() as u32).filter(|id| tokenizer.is_special(*id));
    assert_eq!(special.clone().filter(|id| mask.allows(*id)).count(), 0);
    assert!(special.count() >= 17 && mask.count() > 40_000);
    assert!(!mask.allows(vocabulary.size() as u32));
    assert!(takes(&schema(json!({"type": "string"})), "\"< | im_end | >\""));
}

/// Rows of the model beyond the tokenizer's tokens, and tokens beyond the rows.
#[test]
fn other_sizes_than_the_tokenizers() {
    let tokenizer = &smollm2().0;
    for size in [tokenizer.vocab_size() + 64, 40_000] {
        let vocabulary = Vocabulary::new(Arc::clone(tokenizer), size).unwrap();
        let mut g = Grammar::new(&vocabulary, &Form::Regex("[^b]+".into())).unwrap();
        let mask = g.mask().unwrap();
        assert!(mask.ids().all(|id| (id as usize) < size.min(tokenizer.vocab_size())));
        let mut logits = vec![0.0; size + 3];
        mask.apply(&mut logits);
        assert!(logits[size.min(tokenizer.vocab_size())..].iter().all(|l| *l == f32::NEG_INFINITY));
        assert!(g.accept(size as u32 + 1).is_err());
    }
}

/// Tokens that must come are those of the model's tokenizer, and leave it free to spell what follows.
#[test]
fn forced_tokens_are_canonical() {
    let (tokenizer, _) = smollm2();
    let mut g =
        schema(json!({"const": {"temperature": "very warm"}, "x-guidance": {"whitespace_flexible": false}}));
    let mut ids = Vec::new();
    while !g.ended() {
        let forced = g.forced().to_vec();
        assert!(!forced.is_empty(), "after {:?}", tokenizer.decode(&ids));
        let first = g.mask().unwrap().ids().collect::<Vec<_>>();
        assert_eq!(first, forced[..1]);
        forced.iter().for_each(|id| g.accept(*id).unwrap());
        ids.extend(forced);
    }
    let text = r#"{"temperature":"very warm"}"#;
    assert_eq!(tokenizer.decode(&ids), text);
    assert_eq!(ids, tokenizer.encode(text, false));
    assert!(grammar(Form::Regex("[a-z]+".into())).forced().is_empty());
}

#[test]
fn blanks_digits_and_nesting_have_bounds() {
    let g = schema(json!({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}));
    for text in ["{\"a\":1}", "{ \"a\": 1 }", "{\n    \"a\": 1\n}", "{\n\n\t\"a\": 1\n\n\t}"] {
        assert!(whole(&g, text), "{text:?}");
    }
    assert!(!takes(&g, "{   \"a\"") && !takes(&g, "{\n\n\n\"a\""));
    let may = |text: &str, next: &str| {
        let mut g = schema(
            json!({"type": "array", "items": {"type": "object", "properties": {"ab": {"type": "null"}}}}),
        );
        smollm2().0.encode(text, false).iter().for_each(|id| g.accept(*id).unwrap());
        g.mask().unwrap().allows(smollm2().0.encode(next, false)[0])
    };
    // Blanks stand before what closes and after what separates, not before it.
    assert!(may("[{\"ab\"", ":") && !may("[{\"ab\"", " ") && !may("[{\"ab\"", "\n"));
    assert!(may("[{\"ab\":", " ") && may("[{\"ab\": null", "\n") && may("[{\"ab\": null", "}"));
    assert!(
        may("[{}", ",") && may("[{}", "\n") && may("[{}\n", "]") && !may("[{}\n", ",") && may("[{},", "\n")
    );
    let compact =
        json!({"type": "array", "items": {"type": "null"}, "x-guidance": {"whitespace_flexible": false}});
    assert!(whole(&schema(compact.clone()), "[null,null]") && !takes(&schema(compact), "[null, null"));
    let digit = smollm2().0.encode("3", false)[0];
    for (begin, most) in [("{\"a\":", 20), ("{\"a\":0.", 19), ("{\"a\":1e", 2), ("{\"a\":-2.5E-", 2)] {
        let mut g = g.clone();
        smollm2().0.encode(begin, false).iter().for_each(|id| g.accept(*id).unwrap());
        let mut digits = 0;
        while g.mask().unwrap().allows(digit) {
            g.accept(digit).unwrap();
            digits += 1;
        }
        assert_eq!(digits, most, "after {begin}");
        assert!(takes(&g, "}"), "after {begin}");
    }
    let mut deep = schema(json!(true));
    let open = smollm2().0.encode("[", false)[0];
    let levels =
        (0..100).take_while(|_| deep.mask().unwrap().allows(open) && deep.accept(open).is_ok()).count();
    assert_eq!(levels, 16);
}

/// Several answers to one request: clones share what is compiled and go their own ways, on threads of their own.
#[test]
fn clones_go_their_own_ways() {
    let g =
        schema(json!({"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 2, "maxItems": 2}));
    let texts = [r#"["red", "green"]"#, r#"["green","red"]"#, r#"["red","red"]"#];
    let answers: Vec<bool> = std::thread::scope(|s| {
        let each: Vec<_> = texts.iter().map(|t| (g.clone(), t)).collect();
        let all: Vec<_> = each.into_iter().map(|(g, t)| s.spawn(move || whole(&g, t))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers, [true; 3]);
    assert!(!whole(&g, r#"["red"]"#));
}

fn thought(open: bool) -> Thought {
    Thought { begin: "<think>".into(), end: "</think>".into(), open }
}

#[test]
fn a_thought_may_come_before_the_answer() {
    let answer =
        schema(json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}));
    let g = answer.clone().after(&thought(false)).unwrap();
    for text in [
        "{\"n\": 1}",
        "<think>Is {\"n\": 1} right?\nYes.</think>\n\n{\"n\": 1}",
        "<think> x</think>{\"n\":1}",
    ] {
        assert!(whole(&g, text), "{text}");
    }
    assert!(!takes(&g, "Hm. {") && !takes(&g, "<thinking") && !takes(&g, "<think>a</think>b"));
    assert!(!takes(&g, "<think>a</think>\n\n\n\n\n\n\n\n\n\n{"), "blanks without end");
    let g = answer.after(&thought(true)).unwrap();
    assert!(whole(&g, "Hm.</think>\n{\"n\": 2}") && takes(&g, "{\"m\": 1}") && !whole(&g, "{\"n\": 1}"));
}

/// Within a thought no end of the text, no control token, and no token that hides text behind the marker.
#[test]
fn a_thought_by_chance_leads_to_the_answer() {
    let (tokenizer, _) = smollm2();
    let g = grammar(Form::Regex("[a-z]{3}".into())).after(&thought(true)).unwrap();
    for seed in 0..20 {
        let (mut g, mut random, mut ids) = (g.clone(), Random(seed), Vec::new());
        let end = tokenizer.encode("</think", false);
        while !g.ended() {
            if ids.len() == 30 {
                end.iter().for_each(|id| g.accept(*id).unwrap());
                ids.extend_from_slice(&end);
            }
            let may: Vec<u32> = g.mask().unwrap().ids().collect();
            // The end of the marker is likely where it is begun.
            let ends = may
                .iter()
                .copied()
                .filter(|id| tokenizer.token_bytes(*id).unwrap_or_default().starts_with(b">"));
            let ends: Vec<u32> = ends.collect();
            let some = if ids.len() > 30 && !ends.is_empty() { &ends } else { &may };
            let id = some[random.below(some.len())];
            g.accept(id).unwrap();
            ids.push(id);
            assert!(ids.len() < 5000);
        }
        let text = tokenizer.decode(&ids);
        let (_, answer) = text.split_once("</think>").unwrap();
        let answer = answer.trim_start();
        assert!(answer.len() == 3 && answer.bytes().all(|b| b.is_ascii_lowercase()), "{text:?}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let of =
        |part: Value| json!({"type": "object", "properties": {"list": {"type": "array", "items": part}}});
    for (part, keyword) in [
        (json!({"not": {"type": "string"}}), "not"),
        (json!({"if": {"type": "string"}, "then": {"minLength": 1}}), "if"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "array", "contains": {"type": "null"}}), "contains"),
        (json!({"type": "string", "pattern": "a(?=b)"}), "pattern"),
        (json!({"type": "string", "pattern": "(a"}), "pattern"),
        (json!({"type": "string", "minLength": 5, "maxLength": 4}), "minLength"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "minimum"),
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "minItems"),
        (json!({"type": "string", "format": "regex"}), "format"),
        (json!({"$ref": "#/$defs/missing"}), "$ref"),
        (json!({"$ref": "https://example.com/schema.json"}), "$ref"),
        (json!({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "oneOf"),
        (json!({"anyOf": {"type": "string"}}), "anyOf"),
        (json!({"type": "object", "propertyNames": {"minLength": 3}}), "propertyNames"),
    ] {
        let text = refusal(Form::JsonSchema(of(part.clone())));
        let place = "#/properties/list/items";
        assert!(text.contains(&format!("`{keyword}`")) && text.contains(place), "{part}: {text}");
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
    }
    for (form, word) in [
        (Form::JsonSchema(json!({"type": "strin"})), "strin"),
        (Form::JsonSchema(json!({"type": "string", "minLength": "x"})), "minLength"),
        (Form::JsonSchema(json!([])), "object"),
        (Form::JsonSchema(json!(false)), "false"),
        (Form::JsonSchema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]})), "incompatible"),
        (Form::JsonSchema(json!({"type": "object", "properties": {"a": false}, "required": ["a"]})), "'a'"),
        (Form::JsonSchema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})), "circle"),
        (Form::JsonSchema(json!({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})), "itself"),
        (Form::JsonSchema(json!({"enum": []})), "JSON schema"),
        (Form::Regex("(a".into()), "regular expression"),
        (Form::Regex("a\\".into()), "regular expression"),
        (Form::Regex("(?=a)b".into()), "regular expression"),
        (Form::Lark("start: missing".into()), "missing"),
        (Form::Lark("start: \"a".into()), "grammar"),
        (Form::Lark(String::new()), "grammar"),
    ] {
        let text = refusal(form.clone());
        assert!(text.contains(word), "{form:?}: {text}");
        assert!(!text.contains('\n') && text.len() < 500, "{text}");
    }
}

/// Schemas made to hurt: each is refused or compiled within seconds, and none takes the process down.
#[test]
fn hostile_forms_cost_seconds_at_most() {
    let within = |inner| Value::Object(serde_json::Map::from_iter([("items".to_string(), inner)]));
    let deep = (0..5_000).fold(Value::Null, |inner, _| within(inner));
    let chain: serde_json::Map<String, Value> = (0..19_000)
        .map(|i| (format!("d{i}"), json!({"items": {"$ref": format!("#/$defs/d{}", i + 1)}})))
        .collect();
    let mut chain = json!({"$ref": "#/$defs/d0", "$defs": chain});
    chain["$defs"]["d19000"] = json!({"type": "null"});
    let doubling: serde_json::Map<String, Value> = (0..40)
        .map(|i| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            (
                format!("d{i}"),
                json!({"allOf": [{"properties": {"a": next, "b": next}}, {"properties": {"b": next}}]}),
            )
        })
        .collect();
    let mut doubling = json!({"$ref": "#/$defs/d0", "$defs": doubling});
    doubling["$defs"]["d40"] = json!({"type": "null"});
    let product = json!({"allOf": vec![json!({"anyOf": (0..20).map(|i| json!({"properties": {format!("p{i}"): {"type": "null"}}})).collect::<Vec<_>>()}); 12]});
    let many: Vec<Value> = (0..15_000).map(|i| json!(format!("value number {i}"))).collect();
    let wide: serde_json::Map<String, Value> =
        (0..5_000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    let forms = [
        Form::JsonSchema(deep),
        Form::JsonSchema(chain),
        Form::JsonSchema(doubling),
        Form::JsonSchema(product),
        Form::JsonSchema(json!({"enum": many})),
        Form::JsonSchema(json!({"type": "object", "properties": wide})),
        Form::JsonSchema(json!({"type": "string", "minLength": 4_000_000_000u64})),
        Form::JsonSchema(json!({"type": "string", "maxLength": 1_000_000})),
        Form::JsonSchema(json!({"type": "string", "pattern": "^(((a{1,100}){1,100}){1,100}){1,100}$"})),
        Form::JsonSchema(json!({"type": "string", "pattern": "(.*a){20}.*b", "minLength": 1000})),
        Form::JsonSchema(json!({"type": "array", "minItems": 4_000_000_000u64, "items": {"type": "null"}})),
        Form::JsonSchema(json!({"type": "integer", "multipleOf": 1e-300})),
        Form::JsonSchema(json!({"type": "integer", "minimum": -1e300, "maximum": 1e300})),
        Form::JsonSchema(
            json!({"allOf": [{"type": "integer", "multipleOf": 4_000_000_007u64}, {"multipleOf": 3_999_999_979u64}]}),
        ),
        Form::Regex("((((a|b)*c){50}d){50}e){50}".into()),
        Form::Regex("(?:(?:a?){100}){100}a{5000}".into()),
        Form::Lark("start: a\na: a a | \"x\" | ".into()),
        Form::Lark(format!("start: {}", "(\"a\" | \"b\")? ".repeat(5_000))),
        Form::Lark("start: \"a\"{1000000000}".into()),
        Form::Regex("a".repeat(1 << 20)),
    ];
    for form in forms {
        let start = Instant::now();
        // What is nested deeply is written by recursion, and dropped so.
        let deep = matches!(&form, Form::JsonSchema(schema) if schema["items"]["items"]["items"].is_object());
        let name =
            if deep { "deep".into() } else { format!("{form:?}").chars().take(120).collect::<String>() };
        let outcome = Grammar::new(&smollm2().1, &form).and_then(|mut g| {
            let mut random = Random(1);
            for _ in 0..30 {
                if g.ended() {
                    break;
                }
                let may: Vec<u32> = g.mask()?.ids().collect();
                g.accept(may[random.below(may.len())])?;
            }
            Ok(())
        });
        let took = start.elapsed();
        println!(
            "{took:8.1?} {} {name}",
            outcome.as_ref().map_or_else(ToString::to_string, |()| "compiled".into())
        );
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
        if deep {
            std::mem::forget(form);
        }
    }
}

/// What a schema leaves open comes out closed only where that keeps answers possible and valid.
#[test]
fn objects_are_closed_where_nothing_else_applies() {
    let plain = schema(json!({"type": "object", "properties": {"a": {"type": "null"}}}));
    assert!(whole(&plain, r#"{"a":null}"#) && whole(&plain, "{}") && !takes(&plain, r#"{"b"#));
    let open = schema(
        json!({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": true}),
    );
    assert!(whole(&open, r#"{"a":null,"b":[1]}"#));
    let both = json!({"allOf": [
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
        {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]},
    ]});
    assert!(whole(&schema(both.clone()), r#"{"a":null,"b":null}"#));
    assert_eq!(invalid(&both, r#"{"a":null,"b":null}"#), None);
    let patterns = schema(json!({"type": "object", "patternProperties": {"^[a-z]$": {"type": "null"}}}));
    assert!(whole(&patterns, r#"{"b":null}"#) && !takes(&patterns, r#"{"B"#));
    // A free key cannot spell a named one in another way.
    assert!(!takes(&open, r#"{"\u0061":1"#));
}
