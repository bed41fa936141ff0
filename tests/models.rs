//! Models against goldens of independent implementations, and the one runner of tiny models.

#[path = "models/adapter.rs"]
mod adapter;
#[path = "models/control.rs"]
mod control;
#[path = "models/converted.rs"]
mod converted;
#[path = "models/edit.rs"]
mod edit;
#[path = "models/encoder.rs"]
mod encoder;
#[path = "models/esrgan.rs"]
mod esrgan;
#[path = "models/float8.rs"]
mod float8;
#[path = "models/flux.rs"]
mod flux;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/models.rs"]
mod models;
#[path = "models/painter.rs"]
mod painter;
#[path = "models/picture_lora.rs"]
mod picture_lora;
#[path = "common/pictures.rs"]
mod pictures;
#[path = "models/plans.rs"]
mod plans;
#[path = "models/real.rs"]
mod real;
#[path = "models/samplers.rs"]
mod samplers;
#[path = "models/serving.rs"]
mod serving;
#[path = "models/tae.rs"]
mod tae;
#[path = "models/terrain.rs"]
mod terrain;
#[path = "models/text.rs"]
mod text;
#[path = "models/tiny.rs"]
mod tiny;
#[path = "models/tune.rs"]
mod tune;
#[path = "models/unet.rs"]
mod unet;
#[path = "models/upscale.rs"]
mod upscale;
