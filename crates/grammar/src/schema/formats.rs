//! Formats of strings, held to what strict readers take.

use super::Object;
use serde_json::{Value, json};

/// Years from 1 on, months with their days, leap years (RFC 3339, section 5.7 and appendix C).
const DATE: &str = concat!(
    r"(?:(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-",
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)",
);
/// Without leap seconds, which many readers refuse, and with a fraction as long as nanoseconds.
const TIME: &str =
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
/// RFC 5322's dot-atom at a domain with at least two parts (RFC 5321 limits the lengths).
const EMAIL: &str = concat!(
    r"[a-zA-Z0-9_+-]{1,20}(?:\.[a-zA-Z0-9_+-]{1,20}){0,2}@",
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?\.){1,3}[a-zA-Z]{2,12}"
);
/// RFC 1123, section 2.1, and at most 253 characters.
const HOST: &str =
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?\.){0,5}[a-zA-Z](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?";
/// RFC 3986 with a host by name.
const URI: &str = concat!(
    r"[a-z][a-z0-9+.-]{1,11}://(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?\.){0,5}[a-zA-Z](?:[a-zA-Z0-9-]{0,28}[a-zA-Z0-9])?",
    r"(?::[1-9][0-9]{0,3})?(?:/[a-zA-Z0-9._~!$&'()*+,;=:@-]{0,60}){0,12}",
    r"(?:\?[a-zA-Z0-9._~!$&'()*+,;=:@/?-]{0,120})?(?:#[a-zA-Z0-9._~!$&'()*+,;=:@/?-]{0,60})?"
);
/// ISO 8601 durations, as appendix A of RFC 3339 has them, with numbers of at most 6 digits.
const DURATION: &str = concat!(
    r"P(?:[0-9]{1,6}W|(?:[0-9]{1,6}Y(?:[0-9]{1,6}M(?:[0-9]{1,6}D)?)?|[0-9]{1,6}M(?:[0-9]{1,6}D)?|[0-9]{1,6}D)",
    r"(?:T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S))?",
    r"|T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|[0-9]{1,6}S))"
);
const POINTER: &str = r"(?:/(?:[^/~]|~[01]){0,60}){0,12}";

/// Adds what `format` asks of strings: llguidance's own format, or a pattern among `all`. What JSON Schema does not
/// define is an annotation.
pub(super) fn hold(format: &str, out: &mut Object, all: &mut Vec<Value>) -> Result<(), String> {
    if out.get("type").is_some_and(|t| !says(t, "string")) {
        return Ok(());
    }
    let pattern = match format {
        "date" => DATE.to_string(),
        "time" => TIME.to_string(),
        "date-time" => format!("{DATE}T{TIME}"),
        "email" | "idn-email" => EMAIL.to_string(),
        "hostname" | "idn-hostname" => HOST.to_string(),
        "uri" | "iri" | "uri-reference" | "iri-reference" | "uri-template" => URI.to_string(),
        "duration" => DURATION.to_string(),
        "json-pointer" => POINTER.to_string(),
        "relative-json-pointer" => format!("(?:0|[1-9][0-9]{{0,3}}){POINTER}"),
        "uuid" | "ipv4" | "ipv6" => {
            out.insert("format".into(), format.into());
            return Ok(());
        }
        "regex" => return Err("\"regex\" is not supported; leave it out".into()),
        _ => return Ok(()),
    };
    // Where numbers will do as well, the pattern is about strings alone, as the format is.
    all.push(json!({"pattern": format!("^(?:{pattern})$")}));
    Ok(())
}

fn says(types: &Value, name: &str) -> bool {
    types == name || types.as_array().is_some_and(|some| some.iter().any(|t| t == name))
}
