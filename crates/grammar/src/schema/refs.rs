//! References, and what they make endless.

use super::{Object, wrong};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// References followed one after another at most, where each leads straight to the next.
const CHAIN: usize = 32;

/// What references lead to, by new names.
#[derive(Default)]
pub(super) struct Defs<'s> {
    names: HashMap<(*const Value, bool), String>,
    pending: Vec<(String, &'s Value, String, bool)>,
}

impl<'s> Defs<'s> {
    /// The new reference that stands for `reference` at `place`.
    pub fn name(&mut self, root: &'s Value, reference: &str, place: &str, open: bool) -> Result<String> {
        let mut target = resolve(root, reference, place)?;
        // A reference that is nothing but another one: straight to its end.
        for hops in 0.. {
            let next = target.as_object().filter(|of| of.len() == 1).and_then(|of| of.get("$ref")?.as_str());
            let Some(next) = next else { break };
            if hops == CHAIN {
                return Err(wrong("$ref", place, format_args!("({reference:?}) leads in a circle")));
            }
            target = resolve(root, next, place)?;
        }
        let count = self.names.len();
        let name = self.names.entry((std::ptr::from_ref(target), open)).or_insert_with(|| {
            let name = format!("d{count}");
            self.pending.push((name.clone(), target, reference.trim_start_matches('#').into(), open));
            name
        });
        Ok(format!("#/$defs/{name}"))
    }

    /// One that is not walked yet: its name, schema and place, and whether its objects stay open.
    pub fn pending(&mut self) -> Option<(String, &'s Value, String, bool)> {
        self.pending.pop()
    }
}

/// The schema that a reference within the document leads to.
pub(super) fn resolve<'s>(root: &'s Value, reference: &str, place: &str) -> Result<&'s Value> {
    let missing = || wrong("$ref", place, format_args!("leads to {reference:?}, which is not in the schema"));
    match reference.strip_prefix('#') {
        Some("") => Ok(root),
        Some(pointer) if pointer.starts_with('/') => root.pointer(&unescaped(pointer)).ok_or_else(missing),
        Some(anchor) => find(root, "$anchor", anchor).ok_or_else(missing),
        None if root.get("$id").and_then(Value::as_str) == Some(reference) => Ok(root),
        None => find(root, "$id", reference).ok_or_else(|| {
            wrong(
                "$ref",
                place,
                format_args!(
                    "leads to {reference:?}; schemas elsewhere are not fetched, put it into `$defs`"
                ),
            )
        }),
    }
}

fn find<'s>(value: &'s Value, key: &str, name: &str) -> Option<&'s Value> {
    match value {
        Value::Object(of) if of.get(key).and_then(Value::as_str) == Some(name) => Some(value),
        Value::Object(of) => of.values().find_map(|v| find(v, key, name)),
        Value::Array(some) => some.iter().find_map(|v| find(v, key, name)),
        _ => None,
    }
}

/// A pointer in a fragment without its percent signs.
fn unescaped(pointer: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = pointer.bytes();
    while let Some(byte) = bytes.next() {
        let rest = &pointer[pointer.len() - bytes.len()..];
        let code =
            (byte == b'%').then(|| rest.get(..2)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        if code.is_some() {
            bytes.nth(1);
        }
        out.push(code.unwrap_or(byte));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Takes out what no finite JSON can match: a person who must have a person as child, who must …
///
/// # Errors
/// When nothing is left.
pub(super) fn prune(root: &mut Value, defs: &mut Object) -> Result<()> {
    let mut finite = HashSet::new();
    loop {
        let more = defs.iter().filter(|(name, def)| !finite.contains(name.as_str()) && ends(def, &finite));
        let more: Vec<String> = more.map(|(name, _)| name.clone()).collect();
        if more.is_empty() {
            break;
        }
        finite.extend(more);
    }
    if !ends(root, &finite) {
        return Err(Error::form(
            "the JSON schema cannot be followed: it requires itself within itself, without end",
        ));
    }
    cut(root, &finite);
    defs.retain(|name, _| finite.contains(name));
    defs.iter_mut().for_each(|(_, def)| cut(def, &finite));
    Ok(())
}

fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// Whether finite JSON may match, if the definitions `finite` can be matched so.
fn ends(schema: &Value, finite: &HashSet<String>) -> bool {
    let Value::Object(of) = schema else { return true };
    let some = |key: &str| of.get(key).and_then(Value::as_array);
    let least = of.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let array = || {
        let first = some("prefixItems").into_iter().flatten().take(least);
        let more = of.get("items").filter(|_| some("prefixItems").map_or(0, Vec::len) < least);
        first.chain(more).all(|s| ends(s, finite))
    };
    let object = || {
        let required = some("required").into_iter().flatten().filter_map(Value::as_str);
        required.filter_map(|k| of.get("properties")?.get(k)).all(|s| ends(s, finite))
    };
    let typed = |name| of.get("type").is_none_or(|t| t == name);
    target(schema).is_none_or(|name| finite.contains(name))
        && some("anyOf").is_none_or(|options| options.iter().any(|s| ends(s, finite)))
        && some("allOf").is_none_or(|parts| parts.iter().all(|s| ends(s, finite)))
        && (!typed("array") || array())
        && (!typed("object") || object())
}

fn cut(schema: &mut Value, finite: &HashSet<String>) {
    if target(schema).is_some_and(|name| !finite.contains(name)) {
        *schema = json!(false);
    }
    let Value::Object(of) = schema else { return };
    for (key, part) in of.iter_mut() {
        match (key.as_str(), part) {
            ("const" | "enum" | "type" | "required", _) => {}
            ("properties" | "patternProperties", Value::Object(some)) => {
                some.iter_mut().for_each(|(_, s)| cut(s, finite));
            }
            (_, Value::Array(some)) => some.iter_mut().for_each(|s| cut(s, finite)),
            (_, part) => cut(part, finite),
        }
    }
}
