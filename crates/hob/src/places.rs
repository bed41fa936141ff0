//! Where things lie on this machine: the folders of models, by the environment variables that their owners define.

use std::env;
use std::path::{Path, PathBuf};

use directories::BaseDirs;

use crate::error::{Error, Result};

fn var(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn home() -> Option<PathBuf> {
    BaseDirs::new().map(|b| b.home_dir().to_path_buf())
}

fn no_home(name: &str) -> Error {
    Error::new(format!("this user has no home folder; set {name} to the folder to use"))
}

/// The folder of all that belongs to the Hugging Face tools.
fn hugging_face_home() -> Option<PathBuf> {
    var("HF_HOME").or_else(|| {
        let cache = var("XDG_CACHE_HOME").or_else(|| home().map(|h| h.join(".cache")))?;
        Some(cache.join("huggingface"))
    })
}

/// The Hugging Face cache: the folder of `models--owner--name`.
pub fn hub_cache() -> Result<PathBuf> {
    var("HF_HUB_CACHE")
        .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| hugging_face_home().map(|h| h.join("hub")))
        .ok_or_else(|| no_home("HF_HOME"))
}

/// The person's token for the hub: `HF_TOKEN`, or the file that `hf auth login` writes.
pub fn hub_token() -> Option<String> {
    let from_file = || {
        let path = var("HF_TOKEN_PATH").or_else(|| hugging_face_home().map(|h| h.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    let token =
        env::var("HF_TOKEN").or_else(|_| env::var("HUGGING_FACE_HUB_TOKEN")).ok().or_else(from_file)?;
    let token = token.trim();
    (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then(|| token.to_string())
}

/// The hub's address; `HF_ENDPOINT` names a mirror.
pub fn hub_endpoint() -> String {
    let endpoint = env::var("HF_ENDPOINT").ok().filter(|e| !e.trim().is_empty());
    endpoint.as_deref().unwrap_or("https://huggingface.co").trim().trim_end_matches('/').to_string()
}

/// What Hob keeps for this user: `$HOB_HOME`, or `hob` among the user's data.
fn data() -> Result<PathBuf> {
    var("HOB_HOME")
        .or_else(|| BaseDirs::new().map(|b| b.data_dir().join("hob")))
        .ok_or_else(|| no_home("HOB_HOME"))
}

/// Hob's own folder of models: `$HOB_HOME/models`, or `hob/models` among the user's data.
pub fn own_models() -> Result<PathBuf> {
    Ok(data()?.join("models"))
}

/// The page's conversations: `$HOB_HOME/conversations.sqlite`, or in `hob` among the user's data.
pub fn conversations() -> Result<PathBuf> {
    Ok(data()?.join("conversations.sqlite"))
}

/// The presets made here: `$HOB_HOME/presets`, or `hob/presets` among the user's data.
pub fn presets() -> Result<PathBuf> {
    Ok(data()?.join("presets"))
}

/// Where Hob keeps what it can find out again: `$HOB_HOME/cache`, or `hob` among the user's caches.
pub fn cache() -> Result<PathBuf> {
    var("HOB_HOME")
        .map(|h| h.join("cache"))
        .or_else(|| BaseDirs::new().map(|b| b.cache_dir().join("hob")))
        .ok_or_else(|| no_home("HOB_HOME"))
}

/// The note of a running server: `$HOB_HOME/server.json`, or `hob/server.json` in the folder that the system empties
/// when the user leaves, or else among the user's data.
pub fn server() -> Result<PathBuf> {
    let own = || BaseDirs::new().map(|b| b.runtime_dir().unwrap_or(b.data_dir()).join("hob"));
    var("HOB_HOME").or_else(own).map(|h| h.join("server.json")).ok_or_else(|| no_home("HOB_HOME"))
}

/// The config file: `HOB_CONFIG`, `$HOB_HOME/config.toml`, or `hob/config.toml` where the system keeps the user's settings.
pub fn config() -> Result<PathBuf> {
    let own = || BaseDirs::new().map(|b| b.config_dir().join("hob"));
    let usual = || var("HOB_HOME").or_else(own).map(|h| h.join("config.toml"));
    var("HOB_CONFIG").or_else(usual).ok_or_else(|| no_home("HOB_CONFIG"))
}

/// Every folder that models may lie in, Hob's own and the one that it fetches to first, whether it exists or not.
pub fn model_folders() -> Vec<PathBuf> {
    let ours = hub_cache().into_iter().chain(own_models());
    ours.chain(lm_studio()).chain(ollama()).collect()
}

/// Ollama's folders of models: the user's and the system service's.
pub fn ollama() -> Vec<PathBuf> {
    if let Some(named) = var("OLLAMA_MODELS") {
        return vec![named];
    }
    let user = home().map(|h| h.join(".ollama/models"));
    user.into_iter().chain([PathBuf::from("/usr/share/ollama/.ollama/models")]).collect()
}

/// ComfyUI itself: `COMFYUI_PATH`, or where it and its installers put it.
pub fn comfy_ui() -> Vec<PathBuf> {
    if let Some(named) = var("COMFYUI_PATH") {
        return vec![named];
    }
    let Some(home) = home() else { return Vec::new() };
    ["ComfyUI", "comfy/ComfyUI", "Documents/ComfyUI"].map(|folder| home.join(folder)).into()
}

/// LM Studio's folders of models, the present one and that of older versions.
pub fn lm_studio() -> Vec<PathBuf> {
    let Some(home) = home() else { return Vec::new() };
    vec![home.join(".lmstudio/models"), home.join(".cache/lm-studio/models")]
}

/// A path as a person would write it: `~` for the home folder.
pub fn short(path: &Path) -> String {
    let shown = match home().and_then(|h| path.strip_prefix(&h).ok().map(Path::to_path_buf)) {
        Some(rest) => Path::new("~").join(rest),
        None => path.to_path_buf(),
    };
    crate::terminal::clean(&shown.display().to_string())
}
