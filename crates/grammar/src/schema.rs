//! A JSON Schema as llguidance takes it.
//!
//! Rewritten so that what is generated stays valid: `oneOf` whose options exclude each other becomes `anyOf`; formats are
//! held to what strict readers take; objects are closed where the schema leaves that open; references become names of
//! `$defs`; parts that no finite JSON matches are taken out. What cannot be followed is refused with its place. Nothing
//! is passed over that would make an answer invalid.

mod apart;
mod formats;
mod refs;

use crate::error::words;
use crate::{Error, Result};
use llguidance::api::TopLevelGrammar;
use refs::Defs;
use serde_json::{Map, Value, json};

/// Schemas within each other at most.
const DEPTH: usize = 100;
/// Schemas in all at most; each is walked once where it stands and once where references lead to it.
const NODES: usize = 20_000;
/// Values of JSON in all at most.
const VALUES: usize = 200_000;
/// Blanks between tokens of JSON, as llama.cpp's grammars have them: bounded, or small models write them for ever.
const BLANKS: &str = r" |\n{1,2}[ \t]{0,20}";

type Object = Map<String, Value>;

/// Whether the schema is small enough to be copied and walked by recursion.
pub(crate) fn measure(schema: &Value) -> Result<()> {
    let (mut left, mut values) = (vec![(schema, 0)], 0);
    while let Some((value, depth)) = left.pop() {
        values += 1;
        if values > VALUES || depth > 4 * DEPTH {
            return Err(Error::form(
                "the JSON schema is too large or nested too deeply; ask for a simpler one",
            ));
        }
        match value {
            Value::Array(some) => left.extend(some.iter().map(|v| (v, depth + 1))),
            Value::Object(some) => left.extend(some.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// # Errors
/// What cannot be followed, with its keyword and place.
pub(crate) fn prepare(schema: &Value) -> Result<TopLevelGrammar> {
    let mut walk = Walk { root: schema, defs: Defs::default(), nodes: 0 };
    let mut root = walk.schema(schema, "", false, 0)?;
    let mut done = Map::new();
    while let Some((name, target, place, open)) = walk.defs.pending() {
        done.insert(name, walk.schema(target, &place, open, 0)?);
    }
    refs::prune(&mut root, &mut done)?;
    let mut options = json!({"whitespace_pattern": BLANKS, "json_allowed_escapes": escapes(&root, &done)});
    if let Some(asked) = schema.get("x-guidance") {
        let asked = asked.as_object().ok_or_else(|| wrong("x-guidance", "", "must be an object"))?;
        if asked.get("whitespace_flexible") == Some(&Value::Bool(false)) {
            options["whitespace_pattern"] = Value::Null;
        }
        asked.iter().for_each(|(k, v)| options[k] = v.clone());
    }
    if let Value::Object(root) = &mut root {
        root.insert("$defs".into(), Value::Object(done));
        root.insert("x-guidance".into(), options);
    }
    Ok(TopLevelGrammar::from_json_schema(root))
}

/// Escapes in strings. One spelling for each character, so that a free key cannot spell a declared one in another way;
/// `\u` only where the schema itself holds characters that nothing else can spell.
fn escapes(root: &Value, defs: &Object) -> &'static str {
    fn odd(value: &Value) -> bool {
        let bad = |s: &str| s.chars().any(|c| c < ' ' && !"\u{8}\u{c}\n\r\t".contains(c));
        match value {
            Value::String(s) => bad(s),
            Value::Array(some) => some.iter().any(odd),
            Value::Object(some) => some.iter().any(|(k, v)| bad(k) || odd(v)),
            _ => false,
        }
    }
    if odd(root) || defs.values().any(odd) { "nrbtf\\\"u" } else { "nrbtf\\\"" }
}

pub(super) fn wrong(keyword: &str, place: &str, what: impl std::fmt::Display) -> Error {
    Error::form(format!("the JSON schema cannot be followed: `{keyword}` at #{place} {what}"))
}

struct Walk<'s> {
    root: &'s Value,
    defs: Defs<'s>,
    nodes: usize,
}

/// Keywords that hold in every part of a schema and need no look here.
const KEPT: [&str; 11] = [
    "type",
    "const",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
];
const ARRAY: [&str; 5] = ["items", "prefixItems", "additionalItems", "minItems", "maxItems"];
const OBJECT: [&str; 7] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "required",
    "minProperties",
    "maxProperties",
];
const APPLIED: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];
/// Keywords that constrain and that nothing here can follow.
const REFUSED: [&str; 16] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "uniqueItems",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "minContains",
    "maxContains",
    "extends",
];
const PAIRS: [(&str, &str); 4] = [
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minimum", "maximum"),
];

/// Whether a refused keyword says nothing here.
fn says_nothing(keyword: &str, value: &Value, of: &Object) -> bool {
    match keyword {
        "uniqueItems" => {
            value == &json!(false) || of.get("maxItems").and_then(Value::as_u64).is_some_and(|n| n < 2)
        }
        "if" => !of.contains_key("then") && !of.contains_key("else"),
        "then" | "else" => !of.contains_key("if"),
        "minContains" | "maxContains" => !of.contains_key("contains"),
        "unevaluatedItems" | "unevaluatedProperties" => value == &json!(true),
        "dependencies" | "dependentRequired" | "dependentSchemas" => value == &json!({}),
        _ => false,
    }
}

impl<'s> Walk<'s> {
    /// `open` objects keep room for properties they do not name, because another schema holds for them as well.
    fn schema(&mut self, schema: &'s Value, place: &str, open: bool, depth: usize) -> Result<Value> {
        self.nodes += 1;
        if self.nodes > NODES || depth > DEPTH {
            let most = if depth > DEPTH { "nested too deeply" } else { "too large" };
            return Err(Error::form(format!("the JSON schema is {most}; ask for a simpler one")));
        }
        let of = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(of) => of,
            _ => {
                return Err(Error::form(format!(
                    "the JSON schema at #{place} must be an object, true or false"
                )));
            }
        };
        if let Some((keyword, _)) =
            of.iter().find(|(k, v)| REFUSED.contains(&k.as_str()) && !says_nothing(k, v, of))
        {
            return Err(wrong(keyword, place, "is not supported; leave it out"));
        }
        for (least, most) in PAIRS {
            if let (Some(a), Some(b)) = (number(of, least), number(of, most))
                && a > b
            {
                return Err(wrong(
                    least,
                    place,
                    format_args!("is {}, above `{most}`, {}", of[least], of[most]),
                ));
            }
        }
        let given = |keys: &[&str]| keys.iter().any(|k| of.contains_key(*k));
        let applied = APPLIED.iter().filter(|k| of.contains_key(**k)).count();
        let own = of.keys().any(|k| {
            k != "type"
                && (KEPT.contains(&k.as_str()) || ARRAY.contains(&k.as_str()) || OBJECT.contains(&k.as_str()))
        });
        let several = applied + usize::from(own) > 1
            || of.get("allOf").and_then(Value::as_array).is_some_and(|a| a.len() > 1);
        let open = open || several;
        let mut out = Map::new();
        for key in KEPT.iter().filter(|k| of.contains_key(**k)) {
            out.insert((*key).into(), of[*key].clone());
        }
        bounded(&mut out, place, open)?;
        if let Some(pattern) = of.get("pattern") {
            check_pattern(pattern, "pattern", place)?;
        }
        // Nobody who writes `properties` means that a number will do as well.
        let typed = given(&["type", "const", "enum"]) || applied > 0 || open;
        match (given(&OBJECT), given(&ARRAY)) {
            (true, false) if !typed => drop(out.insert("type".into(), json!("object"))),
            (false, true) if !typed => drop(out.insert("type".into(), json!("array"))),
            _ => {}
        }
        let mut all = Vec::new();
        if let Some(format) = of.get("format").and_then(Value::as_str) {
            formats::hold(format, &mut out, &mut all).map_err(|what| wrong("format", place, what))?;
        }
        self.array(of, &mut out, place, open, depth)?;
        self.object(of, &mut out, place, open, depth)?;
        if let Some(reference) = of.get("$ref") {
            let reference = reference.as_str().ok_or_else(|| wrong("$ref", place, "must be a string"))?;
            out.insert("$ref".into(), self.defs.name(self.root, reference, place, open)?.into());
        }
        for key in ["allOf", "anyOf", "oneOf"].iter().filter(|k| of.contains_key(**k)) {
            let options = self.list(of, key, place, open, depth)?;
            match *key {
                "allOf" => all.extend(options),
                "oneOf" => {
                    let raw = of[*key].as_array().map_or(&[][..], |a| a);
                    if let Some((a, b)) = apart::overlap(self.root, raw, open) {
                        return Err(wrong(
                            "oneOf",
                            place,
                            format_args!(
                                "may hold for its options {a} and {b} at once; say `anyOf`, or give them a \
                                          property whose `const` tells them apart"
                            ),
                        ));
                    }
                    all.push(json!({"anyOf": options}));
                }
                _ => drop(out.insert("anyOf".into(), options.into())),
            }
        }
        match all.len() {
            0 => {}
            1 if out.is_empty() => return Ok(all.remove(0)),
            _ => drop(out.insert("allOf".into(), all.into())),
        }
        Ok(Value::Object(out))
    }

    fn list(
        &mut self,
        of: &'s Object,
        key: &str,
        place: &str,
        open: bool,
        depth: usize,
    ) -> Result<Vec<Value>> {
        let some = of[key].as_array().ok_or_else(|| wrong(key, place, "must be a list"))?;
        let each = some.iter().enumerate();
        each.map(|(i, s)| self.schema(s, &format!("{place}/{key}/{i}"), open, depth + 1)).collect()
    }

    fn array(
        &mut self,
        of: &'s Object,
        out: &mut Object,
        place: &str,
        open: bool,
        depth: usize,
    ) -> Result<()> {
        for key in ["minItems", "maxItems"].iter().filter(|k| of.contains_key(**k)) {
            out.insert((*key).into(), of[*key].clone());
        }
        for key in ["items", "prefixItems", "additionalItems"].iter().filter(|k| of.contains_key(**k)) {
            let part = match &of[*key] {
                Value::Array(_) => self.list(of, key, place, open, depth)?.into(),
                one => self.schema(one, &format!("{place}/{key}"), open, depth + 1)?,
            };
            out.insert((*key).into(), part);
        }
        Ok(())
    }

    fn object(
        &mut self,
        of: &'s Object,
        out: &mut Object,
        place: &str,
        open: bool,
        depth: usize,
    ) -> Result<()> {
        for key in ["required", "minProperties", "maxProperties"].iter().filter(|k| of.contains_key(**k)) {
            out.insert((*key).into(), of[*key].clone());
        }
        for key in ["properties", "patternProperties"].iter().filter(|k| of.contains_key(**k)) {
            let some = of[*key].as_object().ok_or_else(|| wrong(key, place, "must be an object"))?;
            let mut parts = Map::new();
            for (name, part) in some {
                if *key == "patternProperties" {
                    check_pattern(&json!(name), key, place)?;
                }
                let at = format!("{place}/{key}/{}", name.replace('~', "~0").replace('/', "~1"));
                parts.insert(name.clone(), self.schema(part, &at, open, depth + 1)?);
            }
            out.insert((*key).into(), parts.into());
        }
        if let Some(others) = of.get("additionalProperties") {
            let part = self.schema(others, &format!("{place}/additionalProperties"), open, depth + 1)?;
            out.insert("additionalProperties".into(), part);
        } else if !open && closable(of) {
            out.insert("additionalProperties".into(), json!(false));
        }
        match of.get("propertyNames") {
            Some(names) => self.names(names, out, place),
            None => Ok(()),
        }
    }

    /// `propertyNames`, as pydantic and zod write it for maps: patterns or a choice of keys.
    fn names(&mut self, names: &'s Value, out: &mut Object, place: &str) -> Result<()> {
        let refused = || Err(wrong("propertyNames", place, "is supported with `pattern` or `enum` alone"));
        let mut names = names;
        while let Some(reference) = names.get("$ref").and_then(Value::as_str) {
            names = refs::resolve(self.root, reference, place)?;
            self.nodes += 1;
            if self.nodes > NODES {
                return refused();
            }
        }
        let Value::Object(of) = names else {
            return if names == &json!(true) { Ok(()) } else { refused() };
        };
        let said: Vec<&str> = of
            .keys()
            .map(String::as_str)
            .filter(|k| KEPT.contains(k) || APPLIED.contains(k) || REFUSED.contains(k) || *k == "format")
            .filter(|k| *k != "type")
            .collect();
        let others = out.get("additionalProperties").cloned().unwrap_or(json!(true));
        let fits = |named: &mut Object, allowed: &dyn Fn(&str) -> bool| {
            if let Some(Value::Object(some)) = named.get_mut("properties") {
                some.iter_mut().filter(|(k, _)| !allowed(k)).for_each(|(_, v)| *v = json!(false));
            }
        };
        match said[..] {
            [] => return Ok(()),
            _ if out.contains_key("patternProperties") => return refused(),
            ["enum"] => {
                let some: Vec<&str> =
                    of["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                fits(out, &|k| some.contains(&k));
                let named = out.entry("properties").or_insert_with(|| json!({}));
                for key in some {
                    if named.get(key).is_none() {
                        named[key] = others.clone();
                    }
                }
            }
            ["pattern"] if !out.contains_key("properties") => {
                check_pattern(&of["pattern"], "pattern", &format!("{place}/propertyNames"))?;
                let pattern = of["pattern"].as_str().unwrap_or_default();
                out.insert("patternProperties".into(), json!({pattern: others}));
            }
            _ => return refused(),
        }
        out.insert("additionalProperties".into(), json!(false));
        Ok(())
    }
}

/// Holds numbers within what llguidance counts with: 64 bits for bounds, 32 for products of divisors.
fn bounded(out: &mut Object, place: &str, open: bool) -> Result<()> {
    const MOST: f64 = 1e18;
    for (key, sign) in
        [("minimum", -1.0), ("exclusiveMinimum", -1.0), ("maximum", 1.0), ("exclusiveMaximum", 1.0)]
    {
        match number(out, key) {
            Some(n) if n * sign > MOST => drop(out.insert(key.into(), json!(MOST * sign))),
            Some(n) if n * sign < -MOST => return Err(wrong(key, place, "is beyond 1e18")),
            _ => {}
        }
    }
    match number(out, "multipleOf") {
        Some(n) if open && (n.fract() != 0.0 || !(1.0..=1000.0).contains(&n)) => {
            Err(wrong("multipleOf", place, "is supported beside other schemas for whole numbers up to 1000"))
        }
        _ => Ok(()),
    }
}

/// Whether an object that names properties, or patterns of them, and says nothing of others can do without others.
pub(super) fn closable(of: &Object) -> bool {
    let some = |key: &str| of.get(key).and_then(Value::as_object).filter(|p| !p.is_empty());
    let (named, patterns) = (some("properties"), some("patternProperties"));
    let known = |key: &Value| key.as_str().is_some_and(|k| named.is_some_and(|n| n.contains_key(k)));
    let required = of.get("required").and_then(Value::as_array);
    let enough = |least: f64| patterns.is_some() || named.is_some_and(|n| least <= n.len() as f64);
    (named.is_some() || patterns.is_some())
        && !["additionalProperties", "propertyNames"].iter().any(|k| of.contains_key(*k))
        && required.into_iter().flatten().all(known)
        && number(of, "minProperties").is_none_or(enough)
}

pub(super) fn number(of: &Object, key: &str) -> Option<f64> {
    of.get(key).and_then(Value::as_f64)
}

fn check_pattern(pattern: &Value, keyword: &str, place: &str) -> Result<()> {
    let pattern = pattern.as_str().ok_or_else(|| wrong(keyword, place, "must be a string"))?;
    let mut builder = llguidance::derivre::RegexBuilder::new();
    let parsed = builder.mk_regex_for_serach(&llguidance::regex_to_lark(pattern, "dw"));
    parsed.map(drop).map_err(|e| {
        let why = e.to_string();
        // The parser draws the place in lines of its own; what is wrong stands last.
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        wrong(keyword, place, format_args!("is no expression that can be followed: {}", words(why)))
    })
}
