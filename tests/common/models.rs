//! The real models that some tests need. Each test file takes this in by
//! `#[path = "../../../tests/common/models.rs"] mod models;`.

use std::path::{Path, PathBuf};

/// The file `name` (`SmolLM2-135M-Instruct.Q4_1.gguf`, `gemma-3-270m-q4_k_m.gguf`,
/// `terrain_consistency_unet_difficulty100.onnx` or `all-MiniLM-L6-v2/model.safetensors`): in the folder that the
/// environment variable `HOB_TEST_MODELS` names, or else in `target/test-models` of the workspace.
///
/// # Panics
/// When the file is not there: a test that needs it must fail, not pass unseen.
pub fn model(name: &str) -> PathBuf {
    let folder = std::env::var_os("HOB_TEST_MODELS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-models"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "this test needs {name} in {}; fetch it with `cargo run --release -- pull --to target/test-models starter \
         gemma3-270m minilm terrain`, or set HOB_TEST_MODELS to a folder that has it",
        folder.display()
    );
    path
}
