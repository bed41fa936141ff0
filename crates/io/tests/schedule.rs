//! Prompts that change, and that count together, against A1111's own parser (dev/golden_schedules.py).

use hob_io::prompt::{schedule, together};
use proptest::prelude::*;
use serde_json::Value;

/// A prompt, its steps, and what it becomes.
type Row = (String, Option<usize>, Vec<(Value, Value)>);

#[test]
fn prompts_change_as_a1111_has_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer/schedules.json");
    let rows: Vec<Row> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut changing, mut several, mut stray, mut wrong) = (0, 0, 0, Vec::new());
    for (prompt, steps, golden) in &rows {
        match steps {
            Some(steps) => {
                let golden: Vec<(usize, String)> = (golden.iter())
                    .map(|(end, text)| (end.as_u64().unwrap() as usize, text.as_str().unwrap().into()))
                    .collect();
                let ours = schedule(prompt, *steps);
                if ours != golden && is_open(prompt) {
                    stray += 1;
                } else if ours != golden {
                    wrong.push(format!("{prompt:?}: {ours:?}, not {golden:?}"));
                }
                changing += (golden.len() > 1) as usize;
            }
            // One prompt alone has no weight here, so that a colon and a number may stand in it.
            None if golden.len() == 1 => assert_eq!(together(prompt), [(prompt.clone(), 1.0)]),
            None => {
                let golden: Vec<(String, f32)> = (golden.iter())
                    .map(|(text, weight)| (text.as_str().unwrap().into(), weight.as_f64().unwrap() as f32))
                    .collect();
                assert_eq!(together(prompt), golden, "{prompt:?}");
                several += 1;
            }
        }
    }
    // Beside brackets that are not closed, A1111's parser takes now one reading and now another.
    assert!(stray < 20, "{stray}");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(changing > 100 && several > 8, "{changing} change and {several} are several");
}

/// Whether brackets are not closed, or were not opened.
fn is_open(text: &str) -> bool {
    let (mut open, mut rest) = (Vec::new(), text.chars());
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '(' | '[' => open.push(c),
            ')' | ']' if open.pop() != Some(if c == ')' { '(' } else { '[' }) => return true,
            _ => {}
        }
    }
    !open.is_empty()
}

#[test]
fn brackets_without_end_are_text_and_take_no_time() {
    for part in ["[", "(", "[a|", "[a:", "((a)", "[[a:b:2]"] {
        let text = part.repeat(20_000);
        let begun = std::time::Instant::now();
        let all = schedule(&text, 1000);
        assert!(
            all.iter().all(|(end, _)| (1..=1000).contains(end)) && begun.elapsed().as_secs() < 20,
            "{part}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_a_schedule(text in r"[ab \[\]():|\\.0-9eé\n-]{0,60}", any in any::<String>(), steps in 1usize..40) {
        for text in [text, any] {
            let all = schedule(&text, steps);
            prop_assert_eq!(all.last().map(|(end, _)| *end), Some(steps));
            prop_assert!(all.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1));
            prop_assert!(!together(&text).is_empty());
        }
    }
}
