//! Whether the options of a `oneOf` exclude each other.

use super::{Object, closable, number, refs::resolve};
use serde_json::Value;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
/// References and nested choices followed at most; beyond them nothing is known.
const DEPTH: usize = 12;

/// The first two options, counted from 0, that what is generated may both match.
pub(super) fn overlap(root: &Value, options: &[Value], open: bool) -> Option<(usize, usize)> {
    let pairs = |i| (0..options.len()).filter(move |j| *j != i).map(move |j| (i, j));
    (0..options.len())
        .flat_map(pairs)
        .find(|(i, j)| !Pair { root, open }.apart(&options[*i], &options[*j], DEPTH))
}

/// `a` is generated, with its objects closed unless they stay `open`; `b` is as it stands.
struct Pair<'s> {
    root: &'s Value,
    open: bool,
}

impl Pair<'_> {
    fn apart(&self, a: &Value, b: &Value, depth: usize) -> bool {
        let (a_of, b_of) = match (a, b) {
            (Value::Bool(false), _) | (_, Value::Bool(false)) => return true,
            (Value::Object(a), Value::Object(b)) if depth > 0 => (a, b),
            _ => return false,
        };
        for (of, is_a) in [(a_of, true), (b_of, false)] {
            let with = |part: &Value| {
                if is_a { self.apart(part, b, depth - 1) } else { self.apart(a, part, depth - 1) }
            };
            let some = |key| of.get(key).and_then(Value::as_array);
            let target = of.get("$ref").and_then(Value::as_str).and_then(|r| resolve(self.root, r, "").ok());
            if target.is_some_and(with)
                || ["anyOf", "oneOf"]
                    .iter()
                    .any(|k| some(*k).is_some_and(|o| !o.is_empty() && o.iter().all(with)))
                || some("allOf").is_some_and(|parts| parts.iter().any(with))
            {
                return true;
            }
        }
        if let (Some(x), Some(y)) = (values(a_of), values(b_of)) {
            return !x.iter().any(|x| y.iter().any(|y| equal(x, y)));
        }
        let shared: Vec<&str> = types(a_of).into_iter().filter(|t| types(b_of).contains(t)).collect();
        match shared[..] {
            [] => true,
            ["object"] => self.objects(a_of, b_of, depth),
            ["number"] => below(a_of, b_of) || below(b_of, a_of),
            _ => false,
        }
    }

    fn objects(&self, a: &Object, b: &Object, depth: usize) -> bool {
        let closed = !self.open && closable(a);
        let lacks = |of: &Object, key: &str, closed: bool| {
            let named = of.get("properties").is_some_and(|p| p.get(key).is_some());
            !named
                && (closed || of.get("additionalProperties") == Some(&Value::Bool(false)))
                && !of.contains_key("patternProperties")
        };
        let part = |of: &'_ Object, key: &str| of.get("properties").and_then(|p| p.get(key)).cloned();
        let required = |of: &Object| -> Vec<String> {
            let keys = of.get("required").and_then(Value::as_array);
            keys.into_iter().flatten().filter_map(|k| Some(k.as_str()?.to_string())).collect()
        };
        required(a).iter().any(|key| lacks(b, key, false))
            || required(b).iter().any(|key| lacks(a, key, closed))
            || required(a).iter().chain(&required(b)).any(|key| match (part(a, key), part(b, key)) {
                (Some(x), Some(y)) => self.apart(&x, &y, depth - 1),
                _ => false,
            })
    }
}

/// The values that a schema lists, if it does.
fn values(of: &Object) -> Option<Vec<&Value>> {
    of.get("const").map(|v| vec![v]).or_else(|| Some(of.get("enum")?.as_array()?.iter().collect()))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        // Numbers within lists may be spelled in two ways: nothing is claimed of them.
        _ => a == b || (a.is_array() && b.is_array()) || (a.is_object() && b.is_object()),
    }
}

fn types(of: &Object) -> Vec<&'static str> {
    let kind = |name: &str| TYPES.into_iter().find(|t| *t == if name == "integer" { "number" } else { name });
    match (of.get("type"), values(of)) {
        (_, Some(values)) => {
            let of_value = |v: &Value| match v {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            values.into_iter().map(of_value).collect()
        }
        (Some(Value::String(name)), _) => kind(name).into_iter().collect(),
        (Some(Value::Array(names)), _) => names.iter().filter_map(|n| kind(n.as_str()?)).collect(),
        _ => TYPES.to_vec(),
    }
}

/// Whether all numbers of `a` are below those of `b`.
fn below(a: &Object, b: &Object) -> bool {
    let (most, less) = (number(a, "maximum"), number(a, "exclusiveMaximum"));
    let (least, more) = (number(b, "minimum"), number(b, "exclusiveMinimum"));
    let pair = |x: Option<f64>, y: Option<f64>, strict: bool| {
        x.zip(y).is_some_and(|(x, y)| if strict { x < y } else { x <= y })
    };
    pair(most, least, true) || pair(most, more, false) || pair(less, least, false) || pair(less, more, false)
}
