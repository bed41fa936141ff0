//! What `/api/chat` and `/api/generate` share: options, `format`, `think`, `keep_alive`.

use serde_json::Value;

use crate::serve::fields::Fields;
use crate::serve::generate::{Format, Request};
use crate::serve::keep::Keep;
use crate::serve::manager::{Lease, Stay};
use crate::serve::refusal::{Refusal, Result};

/// Fills in what the request says of the answer. Options that Hob has not (`mirostat`, `num_gpu` …) are passed over, as
/// Ollama does. `num_ctx` bounds prompt and answer together; unlike with Ollama, nothing is cut from a prompt that is
/// longer: it is refused.
pub fn read(f: &Fields, request: &mut Request) -> Result<()> {
    if let Some(o) = f.object("options")? {
        let k = &mut request.knobs;
        k.temperature = o.number("temperature", 0.0..=f64::from(f32::MAX))?;
        k.top_k = o.integer("top_k")?.map(|k| k.max(0) as usize);
        // None at all is the likeliest alone.
        k.top_p = o.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE));
        k.min_p = o.number("min_p", 0.0..=1.0)?;
        k.repeat_penalty = o.number("repeat_penalty", 0.01..=10.0)?;
        k.repeat_last_n = o.integer("repeat_last_n")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        // Below zero is by chance.
        k.seed = o.integer("seed")?.and_then(|seed| u64::try_from(seed).ok());
        k.presence = o.number("presence_penalty", -2.0..=2.0)?;
        k.frequency = o.number("frequency_penalty", -2.0..=2.0)?;
        // Below zero is without end.
        request.most = o.integer("num_predict")?.and_then(|n| usize::try_from(n).ok());
        request.stop = o.strings("stop")?;
    }
    request.context = context(f)?;
    request.format = match f.get("format") {
        None => Format::Text,
        Some(Value::String(format)) if format.is_empty() => Format::Text,
        Some(Value::String(format)) if format == "json" => Format::Json,
        Some(schema @ Value::Object(_)) => Format::Schema(schema.clone()),
        Some(_) => return Err(f.wrong("format", "\"json\" or a JSON schema")),
    };
    let top = f.count("top_logprobs", 0..=20)?.unwrap_or(0) as usize;
    request.logprobs = (f.flag("logprobs")?.unwrap_or(false) || top > 0).then_some(top);
    Ok(())
}

/// `think`: whether the model is to think before it answers, and how much.
pub enum Think {
    /// or not
    Flag(bool),
    /// as much
    Level(String),
}

/// Reads it.
pub fn think(f: &Fields) -> Result<Option<Think>> {
    match f.get("think") {
        None => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(Think::Flag(*on))),
        Some(Value::String(level)) if matches!(level.as_str(), "low" | "medium" | "high" | "max") => {
            Ok(Some(Think::Level(level.clone())))
        }
        Some(_) => Err(f.wrong("think", "true, false, low, medium, high or max")),
    }
}

impl Think {
    /// Tells the model's template.
    ///
    /// # Errors
    /// The model does not think.
    pub fn tell(self, lease: &Lease, request: &mut Request) -> Result<()> {
        let on = !matches!(self, Think::Flag(false));
        if on && !super::details::thinks(lease.opened.words.checkpoint.chat_template().as_deref()) {
            let message = format!("{} does not think: ask it without `think`", lease.name);
            return Err(Refusal::field("think", message));
        }
        request.variables.insert("enable_thinking".into(), on.into());
        if let Think::Level(level) = self {
            request.variables.insert("reasoning_effort".into(), level.into());
        }
        Ok(())
    }
}

/// `options.num_ctx`; what is not above zero is as usual.
fn context(f: &Fields) -> Result<Option<usize>> {
    let n = f.object("options")?.map_or(Ok(None), |o| o.integer("num_ctx"))?;
    Ok(n.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0))
}

/// How the model is to be loaded: `keep_alive` and `options.num_ctx`.
pub fn stay(f: &Fields) -> Result<Stay> {
    Ok(Stay { keep: keep(f)?, context: context(f)? })
}

/// `keep_alive`: seconds, or a text such as `5m`; below zero for ever.
fn keep(f: &Fields) -> Result<Option<Keep>> {
    let wrong = |why: String| Refusal::field("keep_alive", format!("`keep_alive`: {why}"));
    match f.get("keep_alive") {
        None => Ok(None),
        Some(Value::String(text)) => Keep::parse(text).map(Some).map_err(wrong),
        Some(Value::Number(n)) => Keep::parse(&n.to_string()).map(Some).map_err(wrong),
        Some(_) => Err(f.wrong("keep_alive", "a number of seconds, or a text such as 5m")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::serve::generate::Prompt;

    fn request(body: &Value) -> Result<Request, String> {
        let mut request = Request::new(Prompt::Text("x".into()));
        let done = Fields::of(body).and_then(|f| read(&f, &mut request));
        done.map(|()| request).map_err(|e| e.message)
    }

    #[test]
    fn options_are_ollamas() {
        let r = request(&json!({"options": {
            "temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7, "num_predict": 9, "num_ctx": 1 << 20,
            "stop": ["a", "b"], "repeat_penalty": 1.2, "repeat_last_n": -1, "presence_penalty": 1, "mirostat": 2,
        }}));
        let r = r.unwrap();
        assert_eq!((r.knobs.temperature, r.knobs.top_k, r.knobs.seed), (Some(0.0), Some(5), Some(7)));
        assert_eq!((r.most, r.stop.len(), r.knobs.repeat_last_n), (Some(9), 2, Some(usize::MAX)));
        assert_eq!(r.context, Some(1 << 20));
        assert_eq!(request(&json!({"options": {"num_ctx": -1}})).unwrap().context, None);
        assert!(request(&json!({"options": {"num_ctx": "long"}})).is_err());
        let r =
            request(&json!({"options": {"seed": -1, "num_predict": -1, "stop": "x", "top_k": -1}})).unwrap();
        assert_eq!((r.knobs.seed, r.most, r.stop, r.knobs.top_k), (None, None, vec!["x".into()], Some(0)));
        let wrong = request(&json!({"options": {"temperature": "hot"}})).err().unwrap();
        assert!(wrong.starts_with("`options.temperature` is a string"), "{wrong}");
        assert!(request(&json!({"options": []})).is_err() && request(&json!({"format": "xml"})).is_err());
        assert_eq!(request(&json!({"format": "json"})).unwrap().format, Format::Json);
        assert_eq!(request(&json!({"format": ""})).unwrap().format, Format::Text);
        assert_eq!(request(&json!({"top_logprobs": 3})).unwrap().logprobs, Some(3));
        assert_eq!(request(&json!({"logprobs": true})).unwrap().logprobs, Some(0));
        assert!(request(&json!({"top_logprobs": 21})).is_err());
    }

    #[test]
    fn models_are_kept_as_long_as_asked() {
        let read = |keep: Value| super::keep(&Fields::of(&json!({"keep_alive": keep})).unwrap());
        let minutes = |n: u64| Some(Keep::For(Duration::from_secs(60 * n)));
        assert_eq!(read(json!("5m")).unwrap(), minutes(5));
        assert_eq!(read(json!(120)).unwrap(), minutes(2));
        assert_eq!(read(json!(0)).unwrap(), minutes(0));
        assert_eq!(read(json!(-1)).unwrap(), Some(Keep::Always));
        assert_eq!(read(json!(0.5)).unwrap(), Some(Keep::For(Duration::from_millis(500))));
        assert_eq!(read(Value::Null).unwrap(), None);
        assert!(read(json!("soon")).is_err() && read(json!([])).is_err());
    }
}
