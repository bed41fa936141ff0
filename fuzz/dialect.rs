//! What the fuzz target `dialect` does with bytes; `cargo test` runs the same over its seeds, and over made-up answers.

use hob_io::chat::{Dialect, Piece, Reader, Tool};

/// Templates of all families, as far as recognition looks at them.
const TEMPLATES: [&str; 16] = [
    "<tool_call><think>",
    "<tool_call><function=x><parameter=y>",
    "<|start_header_id|><|python_tag|>",
    "<|header_start|>",
    "[TOOL_CALLS]",
    "[TOOL_CALLS][ARGS][THINK]",
    "<start_of_turn>",
    "<start_function_call>",
    "<|tool_call>call:<tool_call|><|channel>",
    "<|start|><|channel|><|message|>",
    "<｜tool▁call▁begin｜>```json</think>",
    "<｜tool▁call▁begin｜></think>",
    "<|tool_call_begin|>",
    "<tool_call><arg_key>",
    "<|START_ACTION|><|START_THINKING|>",
    "",
];

/// What answers are made of.
#[rustfmt::skip]
#[allow(dead_code)]
pub const WORDS: [&str; 78] = [
    "<tool_call>", "</tool_call>", "<think>", "</think>", "{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}", "{\"name\":",
    "\"f\"", "f", "g", "{", "}", "[", "]", "(", ")", "\"", "'", "\\", ":", ",", ";", "\n", " ", "1", "a=", "```", "```json\n",
    "```tool_code\n", "<function=f>", "<function=", "<parameter=a>", "</parameter>", "</function>", "<|python_tag|>",
    "<|python_start|>", "<|python_end|>", "[f(a=1)]", "f(a='x')", "print(", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[THINK]",
    "[/THINK]", "<start_function_call>", "<end_function_call>", "call:f{", "<escape>", "a:", "<|tool_call>", "<tool_call|>",
    "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>", "assistant", "analysis", "commentary",
    " to=functions.f ", "to=", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>", "function", "<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.f:0",
    "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
    "<|START_ACTION|>", "<|START_RESPONSE|>",
];

/// The first byte chooses a dialect, the second how the rest is cut.
pub fn dialect(data: &[u8]) {
    let [which, cut, text @ ..] = data else { return };
    read(*which, &String::from_utf8_lossy(text), &[*cut as usize % 16 + 1, *cut as usize / 16 + 1]);
}

/// Reads an answer at once and in parts of these sizes: the same comes out, and nothing is lost.
pub fn read(which: u8, text: &str, sizes: &[usize]) {
    let dialect = Dialect::of(Some(TEMPLATES[which as usize % 16]), None);
    let tool = |name: &str| Tool { name: name.into(), parameters: Default::default() };
    let tools = if which & 16 == 0 { vec![tool("f"), tool("get")] } else { Vec::new() };
    let prompt = match which >> 5 {
        0..4 => "<|start|>assistant",
        4 | 5 => "<think>\n",
        6 => "[THINK]",
        _ => "<|start|>assistant<|channel|>analysis<|message|>",
    };
    let mut at = 0;
    let mut parts = Vec::new();
    for size in sizes.iter().cycle() {
        if at == text.len() {
            break;
        }
        let end = text.ceil_char_boundary((at + size).min(text.len()));
        parts.push(&text[at..end]);
        at = end;
    }
    let run = |parts: &[&str]| {
        let mut reader = Reader::new(&dialect, &tools, prompt);
        let mut pieces: Vec<Piece> = parts.iter().flat_map(|part| reader.push(part)).collect();
        pieces.extend(reader.finish());
        let written: String = pieces.iter().map(Piece::written).collect();
        assert_eq!(written, text, "{pieces:?}");
        let mut joined: Vec<Piece> = Vec::new();
        for piece in pieces {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(last)), Piece::Text(next))
                | (Some(Piece::Thought(last)), Piece::Thought(next))
                | (Some(Piece::Mark(last)), Piece::Mark(next)) => last.push_str(&next),
                (_, piece) => joined.push(piece),
            }
        }
        joined
    };
    assert_eq!(run(&parts), run(&[text]), "{:?} in {parts:?}", dialect.family);
}
