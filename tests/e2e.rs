//! The binary as a person meets it: real processes over real and made-up models, in a world of their own.

#[path = "../crates/hob/tests/common/mod.rs"]
mod common;
#[path = "common/models.rs"]
mod models;
#[path = "common/tiny_picture.rs"]
mod tiny_picture;

#[path = "e2e/answers.rs"]
mod answers;
#[path = "e2e/anthropic.rs"]
mod anthropic;
#[path = "e2e/bad_files.rs"]
mod bad_files;
#[path = "e2e/bad_models.rs"]
mod bad_models;
#[cfg(unix)]
#[path = "e2e/chat.rs"]
mod chat;
#[path = "e2e/doctor.rs"]
mod doctor;
#[path = "e2e/edit.rs"]
mod edit;
#[path = "e2e/embed.rs"]
mod embed;
#[path = "e2e/fit.rs"]
mod fit;
#[path = "e2e/folders.rs"]
mod folders;
#[path = "e2e/image.rs"]
mod image;
#[path = "e2e/images.rs"]
mod images;
#[cfg(unix)]
#[path = "e2e/images_within.rs"]
mod images_within;
#[cfg(unix)]
#[path = "e2e/log.rs"]
mod log;
#[path = "e2e/look.rs"]
mod look;
#[cfg(unix)]
#[path = "e2e/ollama.rs"]
mod ollama;
#[path = "e2e/openai.rs"]
mod openai;
#[cfg(unix)]
#[path = "e2e/owned.rs"]
mod owned;
#[cfg(unix)]
#[path = "e2e/page.rs"]
mod page;
#[path = "e2e/presets.rs"]
mod presets;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "e2e/private.rs"]
mod private;
#[cfg(unix)]
#[path = "e2e/serve.rs"]
mod serve;
#[path = "e2e/serving.rs"]
mod serving;
#[path = "e2e/spent.rs"]
mod spent;
#[path = "e2e/terrain.rs"]
mod terrain;
#[path = "e2e/tiny.rs"]
mod tiny;
#[cfg(unix)]
#[path = "e2e/uses.rs"]
mod uses;
#[cfg(target_os = "linux")]
#[path = "e2e/within.rs"]
mod within;
