//! Picture models among files: folders in diffusers' layout, and files whose header names a denoiser. Looking must be cheap,
//! as it is done for each question which models there are: a header is searched for a name, not parsed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hob_io::onnx::adm::{ARCHITECTURE, is_onnx};

use super::{Found, Kind, Model, Place};
use crate::catalogue;
use crate::file::find;

/// Bytes of a header that are looked through; those of whole models have a few hundred thousand.
const LOOKED: u64 = 4 << 20;

/// Adds the picture models among the files of `root`, which are called `PREFIX:REST`; the whole of it is called `whole`.
pub fn scan(
    root: &Path,
    whole: Option<&str>,
    prefix: &str,
    place: Place,
    files: &[String],
    found: &mut Found,
) {
    const INDEX: &str = "model_index.json";
    let mut folders: Vec<&str> = files.iter().filter_map(|f| f.strip_suffix(INDEX)).collect();
    folders.retain(|f| f.is_empty() && whole.is_some() || f.ends_with('/'));
    for folder in &folders {
        let inner =
            |f: &&String| f.strip_prefix(folder).is_some_and(|rest| rest.contains('/') || rest == INDEX);
        let mine: Vec<&String> = files.iter().filter(inner).collect();
        let weights = |part: &str| {
            let part = format!("{folder}{part}/");
            mine.iter().any(|f| f.starts_with(&part) && (f.ends_with(".safetensors") || f.ends_with(".gguf")))
        };
        if !weights("unet") && !weights("transformer") {
            continue;
        }
        let rest = folder.trim_end_matches('/');
        let (name, qualified) = match (rest, whole) {
            ("", Some(whole)) => (whole.to_string(), format!("{prefix}:{whole}")),
            (rest, Some(whole)) => (format!("{whole}/{rest}"), format!("{prefix}:{whole}:{rest}")),
            (rest, None) => (rest.to_string(), format!("{prefix}:{rest}")),
        };
        let files = mine.iter().map(|f| root.join(f)).collect();
        add(Kind::Image, name, qualified, place, root.join(rest), files, found);
    }
    for file in files.iter().filter(|f| f.ends_with(".safetensors")) {
        let (folder, name) = file.rsplit_once('/').map_or(("", file.as_str()), |(f, n)| (f, n));
        let path = root.join(file);
        let inner = folders.iter().any(|f| file.strip_prefix(f).is_some_and(|rest| rest.contains('/')));
        let beside = |name: &str| {
            files.iter().any(|f| f.strip_prefix(folder).is_some_and(|r| r.trim_start_matches('/') == name))
        };
        if inner || beside("config.json") || !is_picture(&path) {
            continue;
        }
        let qualified = match whole {
            Some(whole) => format!("{prefix}:{whole}:{file}"),
            None => format!("{prefix}:{file}"),
        };
        let name = name.trim_end_matches(".safetensors").to_string();
        add(Kind::Image, name, qualified, place, path.clone(), vec![path], found);
    }
}

/// Adds the terrain models among the files of `root`: what an ONNX file is, stands at its end.
pub fn terrains(root: &Path, prefix: &str, place: Place, files: &[String], found: &mut Found) {
    let ends = |path: &Path| -> std::io::Result<Vec<u8>> {
        let (mut file, mut end) = (File::open(path)?, Vec::new());
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        file.take(4096).read_to_end(&mut end)?;
        Ok(end)
    };
    for file in files.iter().filter(|f| is_onnx(Path::new(f))) {
        let path = root.join(file);
        if ends(&path).is_ok_and(|end| find(&end, ARCHITECTURE.as_bytes()).is_some()) {
            let name = file.rsplit('/').next().unwrap_or(file);
            let alias = path.metadata().ok().and_then(|m| catalogue::of_file(name, m.len())).map(|e| e.name);
            let (name, qualified) =
                (name.rsplit_once('.').map_or(name, |n| n.0).to_string(), format!("{prefix}:{file}"));
            let first = found.models.len();
            add(Kind::Terrain, name, qualified, place, path.clone(), vec![path], found);
            found.models[first..].iter_mut().for_each(|m| m.alias = alias);
        }
    }
}

fn add(
    kind: Kind,
    name: String,
    qualified: String,
    place: Place,
    path: PathBuf,
    files: Vec<PathBuf>,
    found: &mut Found,
) {
    let sizes = files.iter().map(|f| std::fs::metadata(f).map(|m| m.len()));
    let Ok(sizes) = sizes.collect::<Result<Vec<u64>, _>>() else {
        let what = format!("{name} is incomplete: some of its files are missing");
        return found.notes.push(what);
    };
    let bytes = sizes.into_iter().fold(0, u64::saturating_add);
    found.models.push(Model {
        name,
        qualified,
        alias: None,
        place,
        kind,
        path,
        files,
        bytes,
        layers: Vec::new(),
    });
}

/// Whether a file holds what makes pictures: the UNet of a Stable Diffusion, or Flux's transformer. A LoRA or a ControlNet
/// of one is none.
pub fn is_picture(path: &Path) -> bool {
    // Names in quotes, as the header has them; in a GGUF each follows its length.
    const FIRST: [&str; 4] = [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "input_blocks.0.0.weight",
    ];
    let Ok(mut file) = File::open(path) else { return false };
    let mut start = [0; 8];
    if file.read_exact(&mut start).is_err() {
        return false;
    }
    let gguf = start.starts_with(b"GGUF");
    let length = if gguf { LOOKED } else { u64::from_le_bytes(start).min(LOOKED) };
    let mut header = Vec::new();
    if file.take(length).read_to_end(&mut header).is_err() {
        return false;
    }
    if gguf {
        return of_gguf(&header);
    }
    let has = |name: &str| find(&header, format!("\"{name}\"").as_bytes()).is_some();
    FIRST.iter().any(|name| has(name)) && !has("input_hint_block.0.weight")
}

/// By its architecture (city96's), which stands first, or by the name of a tensor (stable-diffusion.cpp's).
fn of_gguf(header: &[u8]) -> bool {
    const KEY: &[u8] = b"general.architecture\x08\0\0\0";
    let near = &header[..header.len().min(4096)];
    if let Some(at) = near.windows(KEY.len()).position(|w| w == KEY) {
        let value = near.get(at + KEY.len() + 8..).unwrap_or_default();
        let length = near.get(at + KEY.len()..).and_then(|v| v.first()).copied().unwrap_or(0).into();
        return value.get(..length).is_some_and(|v| [&b"flux"[..], b"sd1", b"sd2", b"sdxl"].contains(&v));
    }
    find(header, b"model.diffusion_model.input_blocks.0.0.weight").is_some()
        || find(header, b"model.diffusion_model.double_blocks.0.img_attn.qkv.weight").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_whether_a_file_makes_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = |header: &str| {
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())
                .unwrap();
            is_picture(&path)
        };
        assert!(file("{\"model.diffusion_model.input_blocks.0.0.weight\":{}}"));
        assert!(file("{\"a\":{},\"double_blocks.0.img_attn.qkv.weight\":{}}"));
        for other in [
            "{\"lora_unet_input_blocks_0_0.lora_up.weight\":{}}",
            "{\"double_blocks.0.img_attn.qkv.weight.lora_A\":{}}",
            "{\"input_hint_block.0.weight\":{},\"input_blocks.0.0.weight\":{}}",
            "{\"model.layers.0.self_attn.q_proj.weight\":{}}",
            "",
        ] {
            assert!(!file(other), "{other}");
        }
        let gguf = |arch: &str| {
            let length = (arch.len() as u64).to_le_bytes();
            let mut bytes = b"GGUF\x03\0\0\0".to_vec();
            bytes.extend(
                [&[0; 16][..], &20u64.to_le_bytes(), b"general.architecture\x08\0\0\0", &length].concat(),
            );
            bytes.extend(arch.as_bytes());
            std::fs::write(&path, bytes).unwrap();
            is_picture(&path)
        };
        assert!(gguf("flux") && gguf("sdxl") && !gguf("llama") && !gguf("t5encoder"));
        std::fs::write(&path, b"GG").unwrap();
        assert!(!is_picture(&path) && !is_picture(folder.path()));
    }
}
