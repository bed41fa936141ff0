//! From a form to llguidance's parser.

use crate::error::words;
use crate::{Error, Form, Result, Vocabulary, schema};
use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use toktrie::SimpleVob;

/// Text of a grammar or an expression at most.
const TEXT: usize = 1 << 18;
/// llguidance's limits end within this on any machine that runs a model; what goes on longer is left alone.
const TIME: Duration = Duration::from_secs(10);
/// Schemas are compiled by recursion, 128 levels of some kilobytes each in an optimized build.
const STACK: usize = 64 << 20;

/// The parser at its beginning, and the tokens that may come first.
///
/// # Errors
/// [`Error::Form`] with what is wrong and where.
pub(crate) fn matcher(vocabulary: &Vocabulary, form: &Form) -> Result<(Matcher, SimpleVob)> {
    let fits = |text: &str, what| match text.len() {
        0..=TEXT => Ok(()),
        n => Err(Error::form(format!("the {what} has {n} bytes; the most is {TEXT}"))),
    };
    let what = match form {
        Form::JsonObject => "JSON schema",
        Form::JsonSchema(schema) => schema::measure(schema).map(|()| "JSON schema")?,
        Form::Lark(text) => fits(text, "grammar").map(|()| "grammar")?,
        Form::Regex(text) => fits(text, "regular expression").map(|()| "regular expression")?,
    };
    let (form, inner) = (form.clone(), vocabulary.inner().clone());
    let (send, receive) = channel();
    let compile = move || {
        let grammar = match form {
            Form::JsonObject => schema::prepare(&serde_json::json!({"type": "object"}))?,
            Form::JsonSchema(schema) => schema::prepare(&schema)?,
            Form::Lark(text) => TopLevelGrammar::from_lark(text),
            Form::Regex(text) => regex(&text)?,
        };
        let parser = inner.factory.create_parser(grammar).map_err(|e| {
            Error::form(format!("the {what} cannot be followed: {}", words(&format!("{e:#}"))))
        })?;
        let mut matcher = Matcher::new(Ok(parser));
        // A form that nothing matches shows here.
        let first = matcher
            .compute_mask()
            .map_err(|e| Error::form(format!("no answer can match the {what}: {}", words(&e.to_string()))))?;
        Ok((matcher, first))
    };
    let work = move || {
        let done = catch_unwind(AssertUnwindSafe(|| Ok(compile())));
        let failed =
            |e| Err(Error::form(format!("the {what} cannot be compiled: {}", words(&format!("{e:#}")))));
        // Where nobody waits any more, nobody misses it.
        let _ = send.send(done.unwrap_or_else(failed));
    };
    let spawned = std::thread::Builder::new().name("hob-grammar".into()).stack_size(STACK).spawn(work);
    spawned.map_err(|e| Error::form(format!("the {what} cannot be compiled, no thread can be had: {e}")))?;
    receive.recv_timeout(TIME).map_err(|e| match e {
        RecvTimeoutError::Timeout => Error::form(format!(
            "the {what} takes more than {} s to compile; ask for a simpler one",
            TIME.as_secs()
        )),
        RecvTimeoutError::Disconnected => Error::form(format!("the {what} cannot be compiled")),
    })?
}

fn regex(text: &str) -> Result<TopLevelGrammar> {
    let mut builder = llguidance::derivre::RegexBuilder::new();
    builder.mk_regex(text).map_err(|e| {
        Error::form(format!("the regular expression is not understood: {}", words(&e.to_string())))
    })?;
    Ok(TopLevelGrammar::from_regex(text))
}
