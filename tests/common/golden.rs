//! Goldens as `tests/golden/README.md` describes them: a `golden.json` and a `golden.safetensors` in a folder.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// The folder `tests/golden/NAME`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// The facts of a golden.
pub fn facts(name: &str) -> Value {
    let path = folder(name).join("golden.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The arrays of a golden.
pub struct Arrays(hob_io::Safetensors);

impl Arrays {
    /// Of `tests/golden/NAME/FILE.safetensors`.
    pub fn open(name: &str, file: &str) -> Arrays {
        Arrays(hob_io::Safetensors::open(&folder(name).join(format!("{file}.safetensors"))).unwrap())
    }

    /// Whether there is an array called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.tensors().iter().any(|t| t.stored_name == name)
    }

    /// The array called `name`, F32.
    pub fn get(&self, name: &str) -> Vec<f32> {
        let t = self.0.tensors().iter().find(|t| t.stored_name == name);
        let t = t.unwrap_or_else(|| panic!("the golden has no {name}"));
        let mut out = vec![0.0; t.elements()];
        t.dtype.decode(self.0.bytes(t), &mut out);
        out
    }
}

/// A list of token ids.
pub fn ids(v: &Value) -> Vec<u32> {
    v.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

/// The largest difference between two arrays of one length.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { d } else { m.max(d) })
}
