//! Forms with files, `multipart/form-data` (RFC 7578), of a body that is there whole.

use super::refusal::{Kind, Refusal, Result};
use crate::file::find;

/// Parts of a form at most.
const MOST: usize = 256;

/// A field of a form.
pub struct Part<'a> {
    /// its name
    pub name: String,
    /// what it holds
    pub bytes: &'a [u8],
}

/// What stands between the parts, by the body's content type; `None` of another type.
pub fn boundary(kind: &str) -> Option<&str> {
    let (kind, rest) = kind.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = rest.split(';').find_map(|p| {
        let (key, value) = p.trim().split_once('=')?;
        key.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"'))
    })?;
    Some(value).filter(|v| (1..=70).contains(&v.len()))
}

/// The parts.
///
/// # Errors
/// The body is none that the boundary divides.
pub fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>> {
    let broken = |what: &str| Refusal::new(Kind::Invalid, format!("the form is damaged: {what}"));
    let line = format!("--{boundary}");
    let between = format!("\r\n{line}");
    let mut rest = match body.strip_prefix(line.as_bytes()) {
        Some(rest) => rest,
        None => {
            let at = find(body, between.as_bytes()).ok_or_else(|| broken("its boundary is not in it"))?;
            &body[at + between.len()..]
        }
    };
    let mut all = Vec::new();
    while !rest.starts_with(b"--") {
        let end = find(rest, b"\r\n").ok_or_else(|| broken("it breaks off"))?;
        let after = &rest[end..];
        let head = find(after, b"\r\n\r\n").ok_or_else(|| broken("a part has no end of its headers"))?;
        let text = String::from_utf8_lossy(&after[..head]);
        let content = &after[head + 4..];
        let length = find(content, between.as_bytes()).ok_or_else(|| broken("a part has no end"))?;
        let name = name(&text).ok_or_else(|| broken("a part has no name"))?;
        all.push(Part { name, bytes: &content[..length] });
        if all.len() > MOST {
            return Err(broken("it has too many parts"));
        }
        rest = &content[length + between.len()..];
    }
    Ok(all)
}

/// The name in a part's `Content-Disposition`.
fn name(headers: &str) -> Option<String> {
    let line = headers.lines().find_map(|l| {
        let (key, value) = l.split_once(':')?;
        key.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let quoted = line.split_once("name=").filter(|(before, _)| !before.ends_with("file"))?.1;
    let name = match quoted.strip_prefix('"') {
        Some(rest) => rest.split('"').next()?,
        None => quoted.split(';').next()?.trim(),
    };
    Some(name.to_string()).filter(|n| !n.is_empty() && n.len() <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("Multipart/Form-Data;charset=x; Boundary=abc"), Some("abc"));
        assert!(
            boundary("application/json").is_none() && boundary("multipart/form-data; boundary=").is_none()
        );
        let body = b"before\r\n--x\r\ncontent-disposition: form-data; name=\"a\"; filename=\"n\"\r\nContent-Type: t\r\n\r\n\
            1\r\n\r\n--y\r\n--x\r\nContent-Disposition: form-data; name=b\r\n\r\n\r\n--x--\r\nafter";
        let all = parts(body, "x").unwrap();
        let all: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.bytes)).collect();
        assert_eq!(all, [("a", &b"1\r\n\r\n--y"[..]), ("b", b"")]);
    }

    /// Cut anywhere, a form is refused, or what is left of it is whole.
    #[test]
    fn damaged_forms_are_refused() {
        let body = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--";
        for n in 0..body.len() - 2 {
            assert!(parts(&body[..n], "x").is_err(), "{n}");
        }
        assert!(parts(b"--x\r\nA: b\r\n\r\n1\r\n--x--", "x").is_err());
        assert!(parts(b"", "x").is_err());
    }
}
