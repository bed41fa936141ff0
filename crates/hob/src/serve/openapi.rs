//! The description of all paths, for `GET /openapi.json` (<https://spec.openapis.org/oas/v3.1.0>).

use serde_json::{Map, Value, json};

/// Every path, its method and what it does; the paths are also the labels in the metrics.
pub const PATHS: &[(&str, &str, &str)] = &[
    ("/health", "get", "Whether the server answers"),
    ("/metrics", "get", "Counts, as Prometheus reads them"),
    ("/openapi.json", "get", "This description"),
    ("/v1/models", "get", "The models of this machine"),
    ("/v1/models/{id}", "get", "One model"),
    ("/v1/chat/completions", "post", "Answers a conversation"),
    ("/v1/completions", "post", "Goes on with a text"),
    ("/v1/embeddings", "post", "Vectors of texts"),
    ("/v1/rerank", "post", "Texts in the order in which they fit a question"),
    ("/v1/responses", "post", "Answers, and keeps the conversation"),
    ("/v1/responses/{id}/input_items", "get", "What a kept response was asked"),
    ("/v1/responses/{id}", "get", "A kept response"),
    ("/v1/responses/{id}", "delete", "Forgets a kept response"),
    ("/v1/images/generations", "post", "Pictures from words"),
    ("/v1/images/edits", "post", "Pictures from a picture"),
    ("/v1/messages", "post", "Answers a conversation (Anthropic's API)"),
    ("/v1/messages/count_tokens", "post", "Counts the tokens of a request (Anthropic's API)"),
    ("/api/chat", "post", "Answers a conversation (Ollama's API)"),
    ("/api/generate", "post", "Answers a prompt (Ollama's API)"),
    ("/api/tags", "get", "The models of this machine (Ollama's API)"),
    ("/api/show", "post", "What a model's header says (Ollama's API)"),
    ("/api/ps", "get", "The models that are loaded (Ollama's API)"),
    ("/api/pull", "post", "Fetches a model (Ollama's API)"),
    ("/api/create", "post", "Makes a preset of a model (Ollama's API)"),
    ("/api/copy", "post", "Gives a model another name (Ollama's API)"),
    ("/api/delete", "delete", "Removes a model (Ollama's API)"),
    ("/api/version", "get", "Which of Ollama's APIs this is"),
    ("/sdapi/v1/txt2img", "post", "Pictures from words (A1111's API)"),
    ("/sdapi/v1/img2img", "post", "Pictures from a picture (A1111's API)"),
    ("/sdapi/v1/progress", "get", "How far the picture is (A1111's API)"),
    ("/sdapi/v1/interrupt", "post", "Stops the picture (A1111's API)"),
    ("/sdapi/v1/samplers", "get", "The samplers (A1111's API)"),
    ("/sdapi/v1/schedulers", "get", "The schedules (A1111's API)"),
    ("/sdapi/v1/sd-models", "get", "The picture models of this machine (A1111's API)"),
    ("/sdapi/v1/options", "get", "The model that is chosen (A1111's API)"),
    ("/sdapi/v1/options", "post", "Chooses the model (A1111's API)"),
    ("/sdapi/v1/png-info", "post", "How a picture was made (A1111's API)"),
    ("/", "get", "The page; for Ollama's clients, that the server runs"),
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

const PICTURE: [Field; 12] = [
    ("prompt", "string", true, "what the picture shows; (word:1.2) and [word] weigh"),
    ("n", "integer", false, "pictures, at most 10"),
    ("size", "string", false, "auto, or as 512x768"),
    ("response_format", "string", false, "b64_json"),
    ("negative_prompt", "string", false, "what it leads away from (Hob's own)"),
    ("steps", "integer", false, "steps (Hob's own)"),
    ("cfg", "number", false, "how much the prompt counts (Hob's own)"),
    ("guidance", "number", false, "what Flux.1 dev is told of it (Hob's own)"),
    ("sampler", "string", false, "how to walk from noise to picture (Hob's own)"),
    ("schedule", "string", false, "through which levels of noise (Hob's own)"),
    ("clip_skip", "integer", false, "which layer of CLIP is taken, from its end (Hob's own)"),
    ("seed", "integer", false, "the same seed gives the same picture (Hob's own)"),
];

const EDIT: [Field; 4] = [
    ("image", "string", true, "the picture: a file of the form, or base64"),
    ("mask", "string", false, "it is painted anew where this is transparent, or white where nothing is"),
    ("strength", "number", false, "how much is made anew, from 0 to 1 (Hob's own)"),
    ("image_cfg", "number", false, "how much the picture counts, of InstructPix2Pix (Hob's own)"),
];

const A1111: [Field; 11] = [
    ("prompt", "string", false, "what the picture shows"),
    ("negative_prompt", "string", false, "what it leads away from"),
    ("width", "integer", false, "in pixels"),
    ("height", "integer", false, "in pixels"),
    ("steps", "integer", false, "steps"),
    ("cfg_scale", "number", false, "how much the prompt counts"),
    ("sampler_name", "string", false, "a name from /sdapi/v1/samplers"),
    ("scheduler", "string", false, "a name from /sdapi/v1/schedulers"),
    ("seed", "integer", false, "-1 by chance"),
    ("batch_size", "integer", false, "pictures; times n_iter"),
    ("override_settings", "object", false, "sd_model_checkpoint, CLIP_stop_at_last_layers"),
];

const A1111_FROM: [Field; 5] = [
    ("init_images", "array", true, "one picture in base64"),
    ("mask", "string", false, "it is painted anew where this is white"),
    ("inpainting_mask_invert", "integer", false, "1: where it is black"),
    ("denoising_strength", "number", false, "how much is made anew, from 0 to 1"),
    ("image_cfg_scale", "number", false, "how much the picture counts, of InstructPix2Pix"),
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
        "/v1/embeddings" => &[
            ("input", "array", true, "a text, a list of texts, tokens, or a list of lists of tokens"),
            ("encoding_format", "string", false, "float or base64"),
            ("dimensions", "integer", false, "shorten the vectors"),
        ],
        "/v1/rerank" => &[
            ("query", "string", true, "the question"),
            ("documents", "array", true, "the texts, as strings or objects with a text"),
            ("top_n", "integer", false, "results at most"),
            ("return_documents", "boolean", false, "tell the texts again"),
        ],
        "/v1/images/generations" | "/v1/images/edits" => {
            let mut all = vec![("model", "string", false, "a picture model from /v1/models")];
            all.extend_from_slice(&PICTURE);
            if path == "/v1/images/edits" {
                all.extend(EDIT);
            }
            return all;
        }
        "/sdapi/v1/txt2img" | "/sdapi/v1/img2img" => {
            let mut all = A1111.to_vec();
            if path == "/sdapi/v1/img2img" {
                all.extend(A1111_FROM);
            }
            return all;
        }
        "/v1/completions" => &[
            ("prompt", "string", true, "a text, a list of texts, tokens, or a list of lists of tokens"),
            ("max_tokens", "integer", false, "tokens of an answer at most, 16 if not given"),
            (
                "echo",
                "boolean",
                false,
                "begin the answer with the prompt, and with its log-probabilities where asked for",
            ),
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
        "/v1/messages" => &[
            ("messages", "array", true, "the conversation"),
            ("max_tokens", "integer", true, "tokens of the answer at most"),
            ("system", "string", false, "what holds for the whole conversation, or a list of blocks of it"),
            ("stop_sequences", "array", false, "strings that end the answer"),
            ("thinking", "object", false, "enabled, adaptive or disabled, for models that think"),
            ("output_config", "object", false, "format: a JSON schema of the answer; effort"),
        ],
        "/v1/messages/count_tokens" => &[("messages", "array", true, "the conversation")],
        "/api/chat" => &[
            ("messages", "array", false, "the conversation; without one the model is loaded"),
            ("format", "string", false, "json, or a JSON schema of the answer"),
            ("think", "boolean", false, "whether to think, for models that do; also low, medium, high"),
            (
                "options",
                "object",
                false,
                "temperature, top_k, top_p, min_p, seed, num_predict, num_ctx, stop and others",
            ),
            ("keep_alive", "string", false, "how long the model stays loaded: seconds or 5m; 0 unloads it"),
        ],
        "/api/generate" => &[
            ("prompt", "string", false, "what the user says; without one the model is loaded"),
            ("system", "string", false, "what holds for this answer"),
            ("raw", "boolean", false, "take the prompt as it is, without the model's template"),
            (
                "options",
                "object",
                false,
                "temperature, top_k, top_p, min_p, seed, num_predict, num_ctx, stop and others",
            ),
            ("keep_alive", "string", false, "how long the model stays loaded: seconds or 5m; 0 unloads it"),
        ],
        "/api/create" => &[
            ("from", "string", false, "the model to begin with, one of this machine"),
            (
                "system",
                "string",
                false,
                "what holds for every conversation that has no system message of its own",
            ),
            ("template", "string", false, "a chat template in Jinja"),
            ("license", "string", false, "a licence's text, or a list of them"),
            ("parameters", "object", false, "temperature, top_k, num_predict, num_ctx, stop and others"),
            ("messages", "array", false, "examples that begin each conversation"),
            ("modelfile", "string", false, "the same as a Modelfile's text, as older clients send it"),
        ],
        "/api/copy" => {
            return vec![
                ("source", "string", true, "a name from /v1/models"),
                ("destination", "string", true, "the name of the preset that is made"),
            ];
        }
        "/api/show" | "/api/pull" | "/api/delete" => &[],
        _ => return Vec::new(),
    };
    let mut all = vec![("model", "string", true, "a name from /v1/models")];
    all.extend_from_slice(own);
    match path {
        "/v1/messages" => {
            all.extend(SAMPLING.iter().filter(|f| ["temperature", "top_p", "top_k", "stream"].contains(&f.0)))
        }
        _ if path.starts_with("/api/") => {
            all.extend(
                SAMPLING.iter().filter(|f| f.0 == "stream" && !matches!(path, "/api/show" | "/api/delete")),
            );
        }
        "/v1/messages/count_tokens" => {}
        _ => all.extend(SAMPLING),
    }
    match path {
        "/v1/messages" | "/v1/messages/count_tokens" | "/api/chat" => all.extend(
            TOOLS.iter().filter(|f| f.0 == "tools" || (f.0 == "tool_choice" && path == "/v1/messages")),
        ),
        _ if path.starts_with("/api/") => {}
        "/v1/completions" => all.extend(COMMON),
        "/v1/responses" => all.extend(TOOLS),
        _ => all.extend(COMMON.into_iter().chain(TOOLS)),
    }
    all
}

/// The description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for &(path, method, summary) in PATHS {
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
