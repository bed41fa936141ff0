//! What `hob show` says of a picture model: its family, and its parts by their headers.

use std::collections::BTreeMap;
use std::path::Path;

use hob_io::Pipeline;
use hob_io::onnx::adm::is_onnx;
use hob_io::pipeline::{Part, Purpose, Role};
use serde_json::{Value, json};

use crate::error::Result;
use crate::store::{self, Model};
use crate::{places, terminal};

/// Whether a path is that of a picture model: a diffusers folder, or a file whose header names a denoiser; or ONNX.
pub fn is(path: &Path) -> bool {
    path.join("model_index.json").is_file() || path.is_file() && (is_onnx(path) || store::is_picture(path))
}

/// Prints the model's facts; `model` where it was found by its name.
pub fn show(path: &Path, model: Option<&Model>, tensors: bool, json: bool) -> Result<()> {
    if is_onnx(path) {
        return super::image::terrain::show(path, model, tensors, json);
    }
    let pipeline = Pipeline::open(path)?;
    let whole = pipeline.check().err().map(|e| e.to_string());
    let parts: Vec<&Part> = pipeline.parts().collect();
    let bytes = parts.iter().fold(0u64, |n, p| n.saturating_add(p.size_bytes()));
    let parameters = parts.iter().fold(0u64, |n, p| n.saturating_add(p.parameters()));
    let name = |role: Role| match role {
        Role::Denoiser if pipeline.family.is_flux() => "transformer",
        role => role.name(),
    };
    if json {
        let part = |p: &&Part| {
            let formats = formats(p).into_iter();
            let formats: serde_json::Map<String, Value> =
                formats.map(|(format, (n, bytes))| (format, json!({"tensors": n, "bytes": bytes}))).collect();
            let mut out = json!({
                "part": name(p.role), "path": p.path(), "parameters": p.parameters(), "bytes": p.size_bytes(),
                "formats": formats, "config": p.config,
            });
            if tensors {
                let entry = |(name, t): (&String, &hob_io::Tensor)| json!({"name": name, "stored_name": t.stored_name, "shape": t.shape, "dtype": t.dtype.to_string(), "bytes": t.len});
                out["tensors"] = p.tensors.iter().map(entry).collect();
            }
            out
        };
        let out = json!({
            "kind": "image", "name": model.map(|m| &m.name), "path": path, "place": model.map(|m| m.place.name()),
            "family": pipeline.family.to_string(), "purpose": purpose(pipeline.purpose), "parameters": parameters,
            "bytes": bytes, "missing": whole, "scheduler": pipeline.scheduler,
            "parts": parts.iter().map(part).collect::<Value>(),
        });
        println!("{out:#}");
        return Ok(());
    }
    let line = |name: &str, value: String| println!("{}  {value}", terminal::dim(&format!("{name:<20}")));
    if let Some(model) = model {
        line("name", terminal::bold(&terminal::clean(&model.name)));
    }
    line("path", places::short(path));
    line("makes", format!("pictures, {}", purpose(pipeline.purpose)));
    line("family", pipeline.family.to_string());
    line("parameters", terminal::count(parameters));
    line("size", terminal::bytes(bytes));
    let scheduler = ["_class_name", "prediction_type"].map(|key| pipeline.scheduler[key].as_str());
    line("scheduler", terminal::clean(&scheduler.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    if let Some(why) = whole {
        line("cannot run yet", terminal::clean(&why));
    }
    let row = |p: &&Part| {
        let formats: Vec<String> = formats(p).into_keys().collect();
        vec![
            name(p.role).to_string(),
            terminal::count(p.parameters()),
            formats.join(", "),
            terminal::bytes(p.size_bytes()),
            terminal::clean(&places::short(p.path())),
        ]
    };
    let rows: Vec<_> = parts.iter().map(row).collect();
    print!("\n{}", terminal::table(&["PART", "PARAMETERS", "FORMATS", "SIZE", "FILE"], &rows, &[1, 3]));
    if tensors {
        for part in parts {
            let row = |(name, t): (&String, &hob_io::Tensor)| {
                let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
                vec![terminal::clean(name), shape, t.dtype.to_string(), terminal::bytes(t.len as u64)]
            };
            let rows: Vec<_> = part.tensors.iter().map(row).collect();
            let title = format!("TENSOR OF {}", name(part.role).to_uppercase());
            print!("\n{}", terminal::table(&[&title, "SHAPE", "FORMAT", "SIZE"], &rows, &[3]));
        }
    }
    Ok(())
}

/// What a model does, in words.
pub fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Create => "from words",
        Purpose::Inpaint => "by filling in parts of one",
        Purpose::Edit | Purpose::Reference => "by editing one",
        Purpose::Control => "after one of depths or edges",
    }
}

/// Tensors and bytes by format.
fn formats(part: &Part) -> BTreeMap<String, (usize, u64)> {
    let mut formats = BTreeMap::<String, (usize, u64)>::new();
    for tensor in part.tensors.values() {
        let (n, bytes) = formats.entry(tensor.dtype.to_string()).or_default();
        (*n, *bytes) = (*n + 1, *bytes + tensor.len as u64);
    }
    formats
}
