//! Calls with a tag for each parameter: Qwen3-Coder's and GLM's.

use super::{Block, Found, Input, Stage, Stop};
use serde_json::Value;

impl Block {
    /// What stands between parameters, or ends the function.
    pub(super) fn xml(&mut self, input: Input) -> Result<(), Stop> {
        self.at = input.skip(self.at);
        let (at, rest) = (self.at, &input.text[self.at..]);
        let Stage::Xml(name, arguments) = &mut self.stage else { return Err(Stop::Bad(at)) };
        let (key, from, end) = if input.begins(rest, "<parameter=")? {
            let (key, next) = input.until(at + 11, ">")?;
            (key, next, "</parameter>")
        } else if input.begins(rest, "<arg_key>")? {
            let (key, next) = input.until(at + 9, "</arg_key>")?;
            let value = input.skip(next);
            if !input.begins(&input.text[value..], "<arg_value>")? {
                return Err(Stop::Bad(next));
            }
            (key, value + 11, "</arg_value>")
        } else if arguments.is_empty() && rest.starts_with('{') {
            // Llama's `<function=name>{…}</function>`.
            let name = std::mem::take(name);
            self.inner = "</function>";
            return self.arguments(input, rest, name, None);
        } else {
            let whole = input.begins(rest, "</function>")?;
            if !(whole || input.begins(rest, self.close)? || input.end && rest.is_empty()) {
                return Err(if rest.is_empty() { Stop::More } else { Stop::Bad(at) });
            }
            let arguments = Value::Object(std::mem::take(arguments)).to_string();
            let found = Found { name: std::mem::take(name), arguments, id: None };
            return self.add(Some(vec![found]), at + if whole { 11 } else { 0 });
        };
        let key = key.trim().trim_matches('"').to_string();
        self.stage = Stage::Parameter(std::mem::take(name), std::mem::take(arguments), key, from, from, end);
        Ok(())
    }

    /// A value ends where its marker stands before another marker: it may hold the marker's text itself.
    pub(super) fn parameter(&mut self, input: Input) -> Result<(), Stop> {
        const SPACES: usize = 64;
        let text = input.text;
        let Stage::Parameter(name, arguments, key, from, seek, tag) = &mut self.stage else {
            return Err(Stop::Bad(self.at));
        };
        let Some(found) = text[*seek..].find(*tag) else {
            *seek = (*seek).max(text.floor_char_boundary(text.len().saturating_sub(tag.len())));
            return Err(Stop::More);
        };
        *seek += found;
        let after = *seek + tag.len();
        let next = &text[input.skip(after)..];
        let ends = text.len() - next.len() - after >= SPACES
            || if next.is_empty() {
                if !input.end {
                    return Err(Stop::More);
                }
                true
            } else {
                input.any(next, &["<parameter=", "</function>", "<arg_key>", self.close])?
            };
        if !ends {
            *seek = after;
            return Ok(());
        }
        let value = &text[*from..*seek];
        let value = value.strip_prefix("\r\n").or_else(|| value.strip_prefix('\n')).unwrap_or(value);
        let value = value.strip_suffix("\r\n").or_else(|| value.strip_suffix('\n')).unwrap_or(value);
        let value = input.tools.value(name, key, value);
        arguments.insert(std::mem::take(key), value);
        self.at = after;
        self.stage = Stage::Xml(std::mem::take(name), std::mem::take(arguments));
        Ok(())
    }
}
