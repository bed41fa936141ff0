//! The description of all paths, for `GET /openapi.json`.

use serde_json::{Value, json};

/// Every path, its method and what it does; also the labels in the metrics.
pub const PATHS: [(&str, &str, &str); 7] = [
    ("/health", "get", "Whether the server answers"),
    ("/metrics", "get", "Counts, as Prometheus reads them"),
    ("/openapi.json", "get", "This description"),
    ("/v1/models", "get", "The models of this machine"),
    ("/v1/models/{id}", "get", "One model"),
    ("/v1/chat/completions", "post", "Answers a conversation"),
    ("/v1/completions", "post", "Goes on with a text"),
];

/// The description.
pub fn description() -> Value {
    json!({})
}
