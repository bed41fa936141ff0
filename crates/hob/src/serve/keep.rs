//! How long models stay loaded.

use std::time::Duration;

/// How long a model that nobody uses stays loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// so long; zero unloads it at once
    For(Duration),
    /// until the server ends, or another model needs the memory
    Always,
}

impl Keep {
    /// Reads `5m`, `90s`, `1h30m`, `300` (seconds); below zero means always, as with Ollama.
    pub fn parse(text: &str) -> Result<Keep, String> {
        let wrong = || format!("'{text}' is no time; write 5m, 90s, 1h, 0, or -1 for ever");
        let text = text.trim();
        let (text, always) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
        let (mut seconds, mut rest) = (0.0, text);
        while !rest.is_empty() {
            let at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..at].parse().map_err(|_| wrong())?;
            let end = rest[at..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
            seconds += number
                * match &rest[at..end] {
                    "ms" => 1e-3,
                    "" | "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    "d" => 86400.0,
                    _ => return Err(wrong()),
                };
            rest = &rest[end..];
        }
        match always {
            _ if text.is_empty() => Err(wrong()),
            true => Ok(Keep::Always),
            // A century is as good as ever.
            false if seconds > 3e9 => Ok(Keep::Always),
            false => Ok(Keep::For(Duration::from_secs_f64(seconds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_ollama_write_them() {
        let seconds = |n| Ok(Keep::For(Duration::from_secs(n)));
        for (text, keep) in
            [("5m", seconds(300)), ("90", seconds(90)), ("1h30m", seconds(5400)), ("0", seconds(0))]
        {
            assert_eq!(Keep::parse(text), keep, "{text}");
        }
        assert_eq!(Keep::parse("-1"), Ok(Keep::Always));
        assert_eq!(Keep::parse("-1m"), Ok(Keep::Always));
        assert_eq!(Keep::parse("500ms"), Ok(Keep::For(Duration::from_millis(500))));
        for bad in ["", "-", "m", "5x", "5 m", "1.2.3s", "é"] {
            assert!(Keep::parse(bad).is_err(), "{bad}");
        }
    }
}
