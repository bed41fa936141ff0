//! The page's files, embedded. Their paths hold a digest of them all, so that browsers keep them for good and still never
//! mix those of two versions.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::file::hex;
use crate::serve::refusal::{Kind, Refusal};
use crate::serve::{App, ollama};

/// What the page may do: nothing but load its own files and ask its own server. It is framed by nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types hob";

const INDEX: &str = include_str!("assets/index.html");

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const FILES: &[(&str, &str, &str)] = &[
    ("api.js", SCRIPT, include_str!("assets/api.js")),
    ("app.js", SCRIPT, include_str!("assets/app.js")),
    ("chat.js", SCRIPT, include_str!("assets/chat.js")),
    ("composer.js", SCRIPT, include_str!("assets/composer.js")),
    ("dom.js", SCRIPT, include_str!("assets/dom.js")),
    ("format.js", SCRIPT, include_str!("assets/format.js")),
    ("images.js", SCRIPT, include_str!("assets/images.js")),
    ("keys.js", SCRIPT, include_str!("assets/keys.js")),
    ("list.js", SCRIPT, include_str!("assets/list.js")),
    ("machine.js", SCRIPT, include_str!("assets/machine.js")),
    ("message.js", SCRIPT, include_str!("assets/message.js")),
    ("models.js", SCRIPT, include_str!("assets/models.js")),
    ("plot.js", SCRIPT, include_str!("assets/plot.js")),
    ("settings.js", SCRIPT, include_str!("assets/settings.js")),
    ("theme.js", SCRIPT, include_str!("assets/theme.js")),
    ("base.css", STYLE, include_str!("assets/base.css")),
    ("chat.css", STYLE, include_str!("assets/chat.css")),
    ("rooms.css", STYLE, include_str!("assets/rooms.css")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// The first digits of the digest of all files.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, _, text) in [("index.html", "", INDEX)].iter().chain(FILES) {
        digest.update(name);
        digest.update([0]);
        digest.update(text);
    }
    hex(&digest.finalize())[..16].to_string()
});

static PAGE: LazyLock<String> = LazyLock::new(|| INDEX.replace("VERSION", &VERSION));

/// Paths that need no token: they hold nothing of anyone's.
pub fn is_open(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/") || path == "/favicon.ico"
}

pub fn routes() -> Router<Arc<App>> {
    let icon = async |headers: HeaderMap| file(&VERSION, "icon.svg", &headers);
    Router::new()
        // Ollama's clients ask here whether it is there; browsers get the page.
        .route(
            "/",
            get(async |headers: HeaderMap| ollama::greeting(&headers).unwrap_or_else(|| index(&headers))),
        )
        .route("/favicon.ico", get(icon))
        .route(
            "/assets/{version}/{name}",
            get(async |Path((version, name)): Path<(String, String)>, headers: HeaderMap| {
                file(&version, &name, &headers)
            }),
        )
}

/// Headers that every answer of the page's own has.
fn guarded(
    kind: &'static str,
    keep: &'static str,
    etag: &str,
    asked: &HeaderMap,
    body: &'static str,
) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let known = known.flat_map(|v| v.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, keep),
        (header::ETAG, etag),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    match known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, body).into_response(),
    }
}

fn index(asked: &HeaderMap) -> Response {
    guarded("text/html; charset=utf-8", "no-cache", &format!("\"{}\"", *VERSION), asked, &PAGE)
}

fn file(version: &str, name: &str, asked: &HeaderMap) -> Response {
    let found = FILES.iter().find(|f| f.0 == name).filter(|_| version == *VERSION);
    let Some((_, kind, text)) = found else {
        return crate::serve::refuse("/assets", &Refusal::new(Kind::NotFound, "the page has no such file"));
    };
    let etag = format!("\"{version}-{name}\"");
    guarded(kind, "public, max-age=31536000, immutable", &etag, asked, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files that are there are served, and all that are asked for are there.
    #[test]
    fn the_page_is_whole() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/page/assets");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name == "index.html" || FILES.iter().any(|f| f.0 == name), "{name} is not served");
        }
        let has = |name: &str| assert!(FILES.iter().any(|f| f.0 == name), "{name} is missing");
        for part in INDEX.split("/assets/VERSION/").skip(1) {
            has(part.split('"').next().unwrap());
        }
        for (_, _, text) in FILES.iter().filter(|f| f.1 == SCRIPT) {
            for part in text.split("from './").skip(1) {
                has(part.split('\'').next().unwrap());
            }
        }
    }

    #[test]
    fn nothing_is_inline_and_nothing_is_foreign() {
        for (name, _, text) in [("index.html", "", INDEX)].iter().chain(FILES) {
            let bare = text.replace("http://www.w3.org/2000/svg", "");
            for foreign in
                ["http://", "https://", "url(", "@import", "eval(", "new Function", "document.write"]
            {
                assert!(!bare.contains(foreign), "{name} has {foreign}");
            }
        }
        for inline in [" style=", " onclick=", "<style", "javascript:", "<script>"] {
            assert!(!INDEX.contains(inline), "{inline}");
        }
    }

    #[test]
    fn files_are_kept_and_the_page_is_asked_for_anew() {
        let mut headers = HeaderMap::new();
        let response = index(&headers);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
        assert!(
            response.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'")
        );
        let etag = response.headers()[header::ETAG].clone();
        headers.insert(header::IF_NONE_MATCH, etag);
        assert_eq!(index(&headers).status(), StatusCode::NOT_MODIFIED);
        let none = HeaderMap::new();
        assert_eq!(file(&VERSION, "app.js", &none).status(), StatusCode::OK);
        assert_eq!(file("0000", "app.js", &none).status(), StatusCode::NOT_FOUND);
        assert_eq!(file(&VERSION, "../app.js", &none).status(), StatusCode::NOT_FOUND);
        assert!(!PAGE.contains("VERSION") && is_open("/") && !is_open("/hob/state"));
    }
}
