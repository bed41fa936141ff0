//! What a template asks of Python: JSON as its `json` writes it, and the time as its `datetime` does.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};
use std::time::{SystemTime, UNIX_EPOCH};

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, as the filter of that name in `transformers`.
pub(super) fn tojson(value: Value, options: minijinja::value::Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // `transformers` has these too: sorted keys, and separators, of which only Python's defaults are supported.
    let sort: Option<bool> = options.get("sort_keys")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = String::new();
    Json { indent: indent.map(|n| n.min(16)), sort: sort == Some(true) }.write(&value, 0, &mut out)?;
    Ok(Value::from(out))
}

struct Json {
    indent: Option<usize>,
    sort: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let no_json = || Error::new(ErrorKind::BadSerialization, "tojson of what JSON cannot say");
        if depth > 100 {
            return Err(no_json());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone()).map_err(|_| no_json())?)),
            ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(b"[]", &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.list(b"{}", &keys, depth, out, |key, out| {
                    out.push_str(&match key.as_str() {
                        Some(text) => quoted(text),
                        None => format!("\"{}\"", key.to_string().replace("None", "null").to_lowercase()),
                    });
                    out.push_str(": ");
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            _ => return Err(no_json()),
        }
        Ok(())
    }

    fn list(
        &self,
        brackets: &[u8; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(brackets[0] as char);
        for (i, item) in items.iter().enumerate() {
            match self.indent {
                Some(indent) => {
                    out.push_str(if i > 0 { ",\n" } else { "\n" });
                    out.push_str(&" ".repeat(indent * (depth + 1)));
                }
                None => out.push_str(if i > 0 { ", " } else { "" }),
            }
            write(item, out)?;
        }
        if let Some(indent) = self.indent.filter(|_| !items.is_empty()) {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
        out.push(brackets[1] as char);
        Ok(())
    }
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A number as Python's `repr` writes it: with an exponent from 10¹⁶ on and below 10⁻⁴.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `datetime.now().strftime(format)`, in universal time.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86400;
    let (year, month, month_day) = crate::calendar::date(days);
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let year_day = BEFORE[month as usize - 1] + month_day + u64::from(leap && month > 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days as usize + 4) % 7]);
    let twelve = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // `%-d` is `%d` without its leading zero.
        let bare = rest.as_str().starts_with('-');
        let Some(code) = (if bare { rest.nth(1) } else { rest.next() }) else {
            out.push('%');
            break;
        };
        let number = |value: u64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        out += &match code {
            'Y' => year.to_string(),
            'y' => number(year % 100, 2),
            'm' => number(month, 2),
            'd' => number(month_day, 2),
            'H' => number(hour, 2),
            'I' => number(twelve, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'j' => number(year_day, 3),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'B' => month_name.into(),
            'b' => month_name[..3].into(),
            'A' => day_name.into(),
            'a' => day_name[..3].into(),
            'F' => format!("{year}-{month:02}-{month_day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            other => format!("%{other}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_as_pythons() {
        for (seconds, want) in [
            (0, "1970-01-01 Thu 001 12 AM 1 Jan 70"),
            (951_826_500, "2000-02-29 Tue 060 12 PM 29 Feb 00"),
            (1_735_689_599, "2024-12-31 Tue 366 11 PM 31 Dec 24"),
            (1_740_787_200, "2025-03-01 Sat 060 12 AM 1 Mar 25"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%Y-%m-%d %a %j %I %p %-d %b %y", now), want);
        }
        assert_eq!(strftime("100%% %q %", UNIX_EPOCH), "100% %q %");
    }

    #[test]
    fn floats_as_pythons() {
        for (x, want) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e-9, "1e-09"),
            (1.5e300, "1.5e+300"),
            (1e16, "1e+16"),
            (123456789012345.6, "123456789012345.6"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float(x), want);
        }
    }
}
