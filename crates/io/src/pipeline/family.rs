//! The families of picture models: which parts they have, what their text means to them, and their noise.
//!
//! Facts: the configurations published with the models, and diffusers' pipelines.

use super::{Role, part::Part};
use serde_json::{Value, json};

/// A family of picture models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Stable Diffusion 1.x: 512 pixels, CLIP-L.
    Sd1,
    /// Stable Diffusion 2.x: 512 or 768 pixels, OpenCLIP ViT-H.
    Sd2,
    /// SDXL's base and all models of its form: 1024 pixels, CLIP-L and OpenCLIP bigG.
    Sdxl,
    /// SDXL's refiner, with bigG alone.
    SdxlRefiner,
    /// Flux.1 without guidance, for few steps: CLIP-L and T5.
    FluxSchnell,
    /// Flux.1 with guidance given to the network: dev, and those made of it.
    FluxDev,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Sd1 => "Stable Diffusion 1",
            Family::Sd2 => "Stable Diffusion 2",
            Family::Sdxl => "SDXL",
            Family::SdxlRefiner => "SDXL refiner",
            Family::FluxSchnell => "Flux.1 schnell",
            Family::FluxDev => "Flux.1 dev",
        })
    }
}

/// What a denoiser is given beside the noised latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nothing: text to picture.
    Create,
    /// A mask and the latents of the picture without what is masked (UNets of 9 channels; Flux Fill).
    Inpaint,
    /// The latents of the picture to edit (InstructPix2Pix, 8 channels).
    Edit,
    /// The latents of a picture of depths or edges (Flux Depth and Canny).
    Control,
    /// The latents of a picture of its own size, as further tokens (Flux Kontext).
    Reference,
}

impl Purpose {
    /// Whether it sees a whole picture that is to be changed.
    pub fn edits(self) -> bool {
        matches!(self, Purpose::Edit | Purpose::Reference)
    }
}

/// What becomes of a text encoder's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextUse {
    /// How many of the last layers are left out when no other number is asked for: 1 takes the states before the last.
    pub skipped: usize,
    /// Whether the final norm is applied to the states.
    pub normed: bool,
    /// Whether the denoiser attends to the states.
    pub attended: bool,
    /// Whether the state at the end of the text, after all layers and the final norm, is given too.
    pub pooled: bool,
    /// Whether that one goes through `text_projection`.
    pub projected: bool,
    /// Tokens at a time.
    pub max_tokens: usize,
    /// The token that fills a text up to that many; `None` for the one that ends it.
    pub pad: Option<u32>,
}

impl Family {
    /// Whether the denoiser is a UNet.
    pub fn is_unet(self) -> bool {
        !self.is_flux()
    }

    /// Whether the denoiser is Flux's transformer.
    pub fn is_flux(self) -> bool {
        matches!(self, Family::FluxSchnell | Family::FluxDev)
    }

    /// The parts that it needs.
    pub fn roles(self) -> &'static [Role] {
        use Role::*;
        match self {
            Family::Sd1 | Family::Sd2 => &[Denoiser, Vae, TextEncoder],
            Family::SdxlRefiner => &[Denoiser, Vae, TextEncoder2],
            _ => &[Denoiser, Vae, TextEncoder, TextEncoder2],
        }
    }

    /// What it does with the output of a text encoder; `None` for other roles.
    pub fn text(self, role: Role) -> Option<TextUse> {
        if !self.roles().contains(&role) {
            return None;
        }
        let states = TextUse {
            skipped: 0,
            normed: true,
            attended: true,
            pooled: false,
            projected: false,
            max_tokens: 77,
            pad: None,
        };
        Some(match (role, self) {
            (Role::TextEncoder, Family::Sd1) => states,
            // The layer that is never used is not there: `names::open_clip`.
            (Role::TextEncoder, Family::Sd2) => TextUse { pad: Some(0), ..states },
            (Role::TextEncoder, Family::Sdxl) => TextUse { skipped: 1, normed: false, ..states },
            (Role::TextEncoder2, Family::Sdxl | Family::SdxlRefiner) => {
                TextUse { skipped: 1, normed: false, pooled: true, projected: true, pad: Some(0), ..states }
            }
            (Role::TextEncoder, _) => TextUse { attended: false, pooled: true, ..states },
            (Role::TextEncoder2, Family::FluxSchnell) => TextUse { max_tokens: 256, pad: Some(0), ..states },
            (Role::TextEncoder2, _) => TextUse { max_tokens: 512, pad: Some(0), ..states },
            _ => return None,
        })
    }

    /// Latents are multiplied by this before the denoiser sees them, after the shift was taken from them.
    pub(super) fn latent_scale(self) -> (f64, Option<f64>) {
        match self {
            Family::Sd1 | Family::Sd2 => (0.18215, None),
            Family::Sdxl | Family::SdxlRefiner => (0.13025, None),
            Family::FluxSchnell | Family::FluxDev => (0.3611, Some(0.1159)),
        }
    }

    /// `scheduler_config.json` as published with the family.
    pub(super) fn scheduler(self) -> Value {
        if self.is_flux() {
            let dev = self == Family::FluxDev;
            return json!({
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "shift": if dev { 3.0 } else { 1.0 },
                "use_dynamic_shifting": dev,
                "base_shift": 0.5,
                "max_shift": if dev { 1.15 } else { 1.0 },
                "base_image_seq_len": 256,
                "max_image_seq_len": 4096,
            });
        }
        let class = match self {
            Family::Sdxl | Family::SdxlRefiner => "EulerDiscreteScheduler",
            Family::Sd2 => "DDIMScheduler",
            _ => "PNDMScheduler",
        };
        json!({
            "_class_name": class,
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "clip_sample": false,
        })
    }

    /// The family of a denoiser; `refiner` where something else than its widths says so.
    pub(super) fn of(denoiser: &Part, refiner: bool) -> Family {
        let c = &denoiser.config;
        if c["joint_attention_dim"].is_u64() {
            return if c["guidance_embeds"] == true { Family::FluxDev } else { Family::FluxSchnell };
        }
        match c["addition_embed_type"].as_str() {
            Some("text_time") if refiner || denoiser.size("cross_attention_dim") == Some(1280) => {
                Family::SdxlRefiner
            }
            Some("text_time") => Family::Sdxl,
            _ if c["use_linear_projection"] == true || denoiser.size("cross_attention_dim") == Some(1024) => {
                Family::Sd2
            }
            _ => Family::Sd1,
        }
    }

    /// What errors call a part.
    pub(super) fn part_name(self, role: Role) -> &'static str {
        match role {
            Role::Denoiser if self.is_flux() => "Flux transformer",
            Role::Denoiser => "UNet",
            Role::Vae => "VAE",
            Role::TextEncoder if self == Family::Sd2 => "text encoder (OpenCLIP ViT-H)",
            Role::TextEncoder => "text encoder (CLIP-L)",
            Role::TextEncoder2 if self.is_flux() => "second text encoder (T5-XXL)",
            Role::TextEncoder2 => "text encoder (OpenCLIP bigG)",
            Role::Preview => "VAE for previews",
            Role::ControlNet => "ControlNet",
        }
    }

    /// An error when a VAE's own configuration scales latents as another family does.
    pub(super) fn same_scale(self, vae: &Part) -> Result<(), String> {
        let (scale, _) = self.latent_scale();
        let other = [Family::Sd1, Family::Sdxl, Family::FluxDev].into_iter().find(|family| {
            let (theirs, _) = family.latent_scale();
            theirs != scale && vae.config["scaling_factor"].as_f64() == Some(theirs)
        });
        match other.filter(|_| vae.role == Role::Vae && !vae.inferred) {
            None => Ok(()),
            Some(other) => Err(format!(
                "it is the VAE of another family: its configuration is that of a {other}, and this is a {self}"
            )),
        }
    }

    /// Channels of the latents that its denoiser makes.
    pub(super) fn latents(self, denoiser: &Part) -> Option<usize> {
        let out = denoiser.size("out_channels");
        // Flux takes squares of 2 × 2; folders say null where as many come out as go in.
        if self.is_flux() { Some(out.or(denoiser.size("in_channels"))? / 4) } else { out }
    }

    /// What its denoiser is given, by its channels.
    pub(super) fn purpose(self, denoiser: &Part) -> Result<Purpose, String> {
        let (Some(latents), Some(channels)) = (self.latents(denoiser), denoiser.size("in_channels")) else {
            return Err("the configuration of its denoiser lacks in_channels or out_channels".into());
        };
        let ways = match self.is_flux() {
            // A mask of 8 × 8 pixels for each latent.
            true => [
                (4 * latents, Purpose::Create),
                (4 * (2 * latents + 64), Purpose::Inpaint),
                (8 * latents, Purpose::Control),
            ],
            false => [
                (latents, Purpose::Create),
                (2 * latents + 1, Purpose::Inpaint),
                (2 * latents, Purpose::Edit),
            ],
        };
        let way = match ways.iter().find(|(n, _)| *n == channels).map(|(_, purpose)| *purpose) {
            // Its tensors are those of dev.
            Some(Purpose::Create) if denoiser.config["kontext"] == true => Some(Purpose::Reference),
            way => way,
        };
        way.ok_or_else(|| {
            format!("its denoiser takes {channels} channels, where {latents} are made, which no {self} known here does")
        })
    }
}
