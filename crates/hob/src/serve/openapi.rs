//! The description of all paths, for `GET /openapi.json` (<https://spec.openapis.org/oas/v3.1.0>).

use serde_json::{Map, Value, json};

/// Every path, its method and what it does; the paths are also the labels in the metrics.
pub const PATHS: [(&str, &str, &str); 11] = [
    ("/health", "get", "Whether the server answers"),
    ("/metrics", "get", "Counts, as Prometheus reads them"),
    ("/openapi.json", "get", "This description"),
    ("/v1/models", "get", "The models of this machine"),
    ("/v1/models/{id}", "get", "One model"),
    ("/v1/chat/completions", "post", "Answers a conversation"),
    ("/v1/completions", "post", "Goes on with a text"),
    ("/v1/responses", "post", "Answers, and keeps the conversation"),
    ("/v1/responses/{id}/input_items", "get", "What a kept response was asked"),
    ("/v1/responses/{id}", "get", "A kept response"),
    ("/v1/responses/{id}", "delete", "Forgets a kept response"),
];

/// Fields of requests, by path: name, type, whether it must be there, what it means.
type Field = (&'static str, &'static str, bool, &'static str);

const SAMPLING: [Field; 9] = [
    ("temperature", "number", false, "0 always takes the likeliest token; up to 2"),
    ("top_p", "number", false, "only the likeliest tokens that together have this probability"),
    ("top_k", "integer", false, "only the k likeliest tokens (Hob's own)"),
    ("min_p", "number", false, "only tokens at least this likely, relative to the likeliest (Hob's own)"),
    ("repeat_penalty", "number", false, "above 1 makes recent tokens less likely (Hob's own)"),
    ("presence_penalty", "number", false, "taken off the logits of tokens said, from -2 to 2"),
    ("frequency_penalty", "number", false, "the same, as often as they were said"),
    ("seed", "integer", false, "the same seed gives the same answer"),
    ("stream", "boolean", false, "answer with server-sent events"),
];

fn fields(path: &str) -> Vec<Field> {
    const COMMON: [Field; 4] = [
        ("n", "integer", false, "number of answers, at most 128"),
        ("logit_bias", "object", false, "added to the logits of tokens, by id, from -100 to 100"),
        ("stop", "array", false, "strings that end the answer; one may stand alone"),
        ("stream_options", "object", false, "include_usage: end the stream with a chunk of usage"),
    ];
    const TOOLS: [Field; 3] = [
        ("tools", "array", false, "functions that may be called"),
        ("tool_choice", "string", false, "auto, none, required, or an object that names a function"),
        ("parallel_tool_calls", "boolean", false, "whether several may be called at once"),
    ];
    let own: &[Field] = match path {
        "/v1/chat/completions" => &[
            ("messages", "array", true, "the conversation"),
            ("max_completion_tokens", "integer", false, "tokens of an answer at most; also max_tokens"),
            ("logprobs", "boolean", false, "tell log-probabilities"),
            ("top_logprobs", "integer", false, "with those of so many likely tokens, at most 20"),
            ("response_format", "object", false, "text, json_object or json_schema"),
            ("reasoning_effort", "string", false, "how much to think, for models that do"),
        ],
        "/v1/completions" => &[
            ("prompt", "string", true, "a text, a list of texts, tokens, or a list of lists of tokens"),
            ("max_tokens", "integer", false, "tokens of an answer at most, 16 if not given"),
            ("echo", "boolean", false, "begin the answer with the prompt"),
            ("logprobs", "integer", false, "tell log-probabilities, and those of so many likely tokens"),
        ],
        "/v1/responses" => &[
            ("input", "string", true, "what the user says, or a list of items"),
            ("instructions", "string", false, "what holds for this answer"),
            ("previous_response_id", "string", false, "a kept response to go on from"),
            ("store", "boolean", false, "whether to keep the response; true if not given"),
            ("max_output_tokens", "integer", false, "tokens of the answer at most"),
            ("text", "object", false, "format: text, json_object or json_schema"),
        ],
        _ => return Vec::new(),
    };
    let mut all = vec![("model", "string", true, "a name from /v1/models")];
    all.extend_from_slice(own);
    all.extend(SAMPLING);
    match path {
        "/v1/completions" => all.extend(COMMON),
        "/v1/responses" => all.extend(TOOLS),
        _ => all.extend(COMMON.into_iter().chain(TOOLS)),
    }
    all
}

/// The description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for (path, method, summary) in PATHS {
        let content = match path {
            "/metrics" => json!({"text/plain": {}}),
            _ => json!({"application/json": {"schema": {"type": "object"}}}),
        };
        let mut does = json!({
            "summary": summary,
            "operationId": format!("{method}{}", path.replace(['/', '{', '}', '.'], "_")),
            "responses": {
                "200": {"description": "As asked", "content": content},
                "default": {"$ref": "#/components/responses/Error"},
            },
        });
        let fields = fields(path);
        if !fields.is_empty() {
            let each = fields.iter().map(|(name, kind, _, what)| {
                // Unions are told in words: what else it may be stands in the description.
                let kind = if matches!(*name, "prompt" | "input" | "stop" | "tool_choice") {
                    json!({})
                } else {
                    json!({"type": kind})
                };
                let mut schema = kind;
                schema["description"] = (*what).into();
                (name.to_string(), schema)
            });
            let properties: Map<String, Value> = each.collect();
            let required: Vec<&str> = fields.iter().filter(|f| f.2).map(|f| f.0).collect();
            let schema = json!({"type": "object", "properties": properties, "required": required});
            does["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        if path.contains("{id}") {
            let id = json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"}});
            does["parameters"] = json!([id]);
        }
        if path == "/health" {
            does["security"] = json!([]);
        }
        paths.entry(path).or_insert_with(|| json!({}))[method] = does;
    }
    let error = json!({"type": "object", "required": ["error"], "properties": {"error": {
        "type": "object",
        "required": ["message", "type"],
        "properties": {
            "message": {"type": "string"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]},
        },
    }}});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hob",
            "description": "Models of this machine, by OpenAI's API",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error},
            "responses": {"Error": {
                "description": "What is wrong, in one sentence",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            }},
        },
    })
}
