//! What each phase of a picture takes of memory, before a weight is read.

use super::network::Network;
use super::painter::{Denoiser, Painter, ask};
use crate::lora::Updates;
use crate::{Error, Result};
use hob_io::pipeline::Role;
use hob_io::prompt::TOKENS;
use hob_models::{clip, flux, t5};

/// Bytes that the phases take: weights as stored, and memory to work in.
#[derive(Clone, Debug)]
pub struct Phase {
    /// what runs
    pub role: Role,
    /// of its weights
    pub weights: usize,
    /// to work in
    pub work: usize,
}

impl Painter {
    /// What each phase takes, for pictures of a size with prompts of so many tokens.
    ///
    /// # Errors
    /// A part's weights do not fit its configuration.
    pub fn phases(&self, width: usize, height: usize, guided: bool, tokens: usize) -> Result<Vec<Phase>> {
        let mut phases = Vec::new();
        let mut add = |role: Role, graph| -> Result<()> {
            // LoRAs need not be merged to know how large weights are.
            let network = Network::new(&self.pipeline, role, &Updates::default(), &self.cpu)?;
            let (weights, work) = network.plan(&self.cpu, graph)?;
            phases.push(Phase { role, weights, work });
            Ok(())
        };
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            let Some(how) = self.pipeline.text(role) else { continue };
            let config = &self.pipeline.need(role).map_err(ask)?.config;
            if self.pipeline.family.is_flux() && role == Role::TextEncoder2 {
                add(role, t5::Config::parse(config).map_err(Error::Ask)?.encoder(1, how.max_tokens))?;
            } else {
                let wanted = clip::Wanted {
                    layer: 1 + how.skipped,
                    norm: how.normed,
                    pooled: how.pooled,
                    vectors: false,
                };
                let c = clip::Config::parse(config).map_err(Error::Ask)?;
                let most = TOKENS.min(c.max_position_embeddings);
                add(role, c.encoder(tokens.div_ceil(TOKENS).max(1), most, wanted))?;
            }
        }
        let (h, w) = (self.latent(height), self.latent(width));
        let pooled = self.pooled()?;
        let size = self.unet_sizes(if guided { 2 } else { 1 }, h, w, tokens, pooled);
        let graph = match &self.denoiser {
            Denoiser::Unet(c) => c.graph(size),
            Denoiser::Flux(c) => c.graph(flux::Size { batch: 1, text: tokens, height: h / 2, width: w / 2 }),
        };
        add(Role::Denoiser, graph)?;
        if let Some(c) = &self.control {
            add(Role::ControlNet, c.graph(size))?;
        }
        add(Role::Vae, self.vae.decoder(1, h, w))?;
        Ok(phases)
    }

    /// Channels of the pooled text that the denoiser is given; 0 where it is given none.
    fn pooled(&self) -> Result<usize> {
        for role in [Role::TextEncoder, Role::TextEncoder2] {
            if self.pipeline.text(role).is_some_and(|how| how.pooled) {
                let config = &self.pipeline.need(role).map_err(ask)?.config;
                return Ok(clip::Config::parse(config).map_err(Error::Ask)?.pooled_size());
            }
        }
        Ok(0)
    }
}
