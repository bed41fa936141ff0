//! A request's fields, read from JSON one by one, so that what is wrong can be said with the field's name. `null` is as
//! good as absent, and fields that nobody asks for are passed over, as the originals do.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::refusal::{Refusal, Result};

/// An object of a request, and where it stands in it.
#[derive(Clone)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: String,
}

impl<'a> Fields<'a> {
    /// The whole body.
    pub fn of(value: &'a Value) -> Result<Fields<'a>> {
        Fields::at(value, String::new())
    }

    /// The object `value`, which stands at the path `at`.
    pub fn at(value: &'a Value, at: String) -> Result<Fields<'a>> {
        match value.as_object() {
            Some(map) => Ok(Fields { map, at }),
            None if at.is_empty() => Err(Refusal::field("", "the body must be a JSON object")),
            None => Err(wrong(&at, value, "an object")),
        }
    }

    /// The path of a field in the request: `messages[0].role`.
    pub fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.into() } else { format!("{}.{name}", self.at) }
    }

    /// The field as it stands.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// All fields.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// That the field is not `must`.
    pub fn wrong(&self, name: &str, must: &str) -> Refusal {
        wrong(&self.path(name), self.map.get(name).unwrap_or(&Value::Null), must)
    }

    /// What must be there.
    pub fn need<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        let path = self.path(name);
        value.ok_or_else(|| Refusal::field(path.clone(), format!("`{path}` is missing")))
    }

    fn read<T>(&self, name: &str, must: &str, f: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(name).map(|v| f(v).ok_or_else(|| self.wrong(name, must))).transpose()
    }

    /// A string.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.read(name, "a string", Value::as_str)
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// A number within bounds.
    pub fn number(&self, name: &str, within: RangeInclusive<f64>) -> Result<Option<f32>> {
        let must = format!("a number from {} to {}", within.start(), within.end());
        let inside = |v: &Value| v.as_f64().filter(|n| within.contains(n)).map(|n| n as f32);
        self.read(name, &must, inside)
    }

    /// A whole number within bounds; clients in languages without them write `1.0`.
    pub fn count(&self, name: &str, within: RangeInclusive<u64>) -> Result<Option<u64>> {
        let (low, high) = (*within.start(), *within.end());
        let must = match high {
            u64::MAX => format!("a whole number from {low}"),
            _ => format!("a whole number from {low} to {high}"),
        };
        let whole = |v: &Value| {
            v.as_u64().or_else(|| {
                v.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n)).map(|n| n as u64)
            })
        };
        self.read(name, &must, |v| whole(v).filter(|n| within.contains(n)))
    }

    /// A whole number that may be negative.
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        self.read(name, "a whole number", Value::as_i64)
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        self.get(name).map(|v| Fields::at(v, self.path(name))).transpose()
    }

    /// A list.
    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>> {
        self.read(name, "a list", |v| v.as_array().map(Vec::as_slice))
    }

    /// A list of objects.
    pub fn objects(&self, name: &str) -> Result<Option<Vec<Fields<'a>>>> {
        let each = |(i, v)| Fields::at(v, format!("{}[{i}]", self.path(name)));
        self.list(name)?.map(|list| list.iter().enumerate().map(each).collect()).transpose()
    }

    /// A string, or a list of them.
    pub fn strings(&self, name: &str) -> Result<Vec<String>> {
        let must = "a string or a list of strings";
        let all = |v: &Value| match v {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(list) => list.iter().map(|v| v.as_str().map(String::from)).collect(),
            _ => None,
        };
        Ok(self.read(name, must, all)?.unwrap_or_default())
    }
}

/// That what stands at `path` is not what it must be. Texts are not repeated: they may be a prompt's.
fn wrong(path: &str, value: &Value, must: &str) -> Refusal {
    let is = match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    };
    let message = match is == must {
        true => format!("`{path}` has a value that is not known"),
        false => format!("`{path}` is {is}, and must be {must}"),
    };
    Refusal::field(path, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_said_with_its_name() {
        let body = json!({"a": {"t": 3, "s": "x", "n": null}, "list": [{}, 1], "stop": ["a", 2], "k": 4.0});
        let f = Fields::of(&body).unwrap();
        let a = f.object("a").unwrap().unwrap();
        let e = a.number("t", 0.0..=2.0).unwrap_err();
        assert_eq!(
            (e.message.as_str(), e.field.as_deref()),
            ("`a.t` is 3, and must be a number from 0 to 2", Some("a.t"))
        );
        assert_eq!(a.flag("s").unwrap_err().message, "`a.s` is a string, and must be true or false");
        assert_eq!(a.text("n").unwrap(), None);
        assert_eq!(f.objects("list").err().unwrap().message, "`list[1]` is 1, and must be an object");
        assert_eq!(f.strings("stop").unwrap_err().field.as_deref(), Some("stop"));
        assert_eq!(f.count("k", 1..=8).unwrap(), Some(4));
        assert!(f.count("k", 1..=3).is_err() && f.need("q", f.get("q")).is_err());
        assert!(Fields::of(&json!([])).is_err());
    }
}
