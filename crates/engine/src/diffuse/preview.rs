//! How a picture looks while it is made: by a tiny autoencoder, or by a map of latents to colours.

use super::Painter;
use super::network::Network;
use super::painter::ask;
use crate::lora::Updates;
use crate::{Error, Result};
use hob_cpu::{Cpu, Precision};
use hob_graph::Data;
use hob_io::pipeline::{Family, Role};
use hob_io::{Picture, Pipeline};
use hob_models::tae;
use std::sync::Arc;

/// Makes pictures of latents quickly, beside the painter that is at work.
pub struct Preview(How);

enum How {
    /// one of TAESD's kind, open while a picture is painted
    Tiny { config: Box<tae::Config>, pipeline: Arc<Pipeline>, network: Option<Box<Network>>, cpu: Cpu },
    /// what each channel adds to red, green and blue, and those to begin with
    Colours(&'static [[f32; 3]], [f32; 3]),
}

// Fitted to pictures of each autoencoder: `latent_rgb_factors` and `latent_rgb_factors_bias` of ComfyUI's latent_formats.py.
const SD: [[f32; 3]; 4] = [
    [0.3512, 0.2297, 0.3227],
    [0.3250, 0.4974, 0.2350],
    [-0.2829, 0.1762, 0.2721],
    [-0.2120, -0.2616, -0.7177],
];
const SDXL: [[f32; 3]; 4] = [
    [0.3651, 0.4232, 0.4341],
    [-0.2533, -0.0042, 0.1068],
    [0.1076, 0.1111, -0.0362],
    [-0.3165, -0.2492, -0.2188],
];
const FLUX: [[f32; 3]; 16] = [
    [-0.0346, 0.0244, 0.0681],
    [0.0034, 0.0210, 0.0687],
    [0.0275, -0.0668, -0.0433],
    [-0.0174, 0.0160, 0.0617],
    [0.0859, 0.0721, 0.0329],
    [0.0004, 0.0383, 0.0115],
    [0.0405, 0.0861, 0.0915],
    [-0.0236, -0.0185, -0.0259],
    [-0.0245, 0.0250, 0.1180],
    [0.1008, 0.0755, -0.0421],
    [-0.0515, 0.0201, 0.0011],
    [0.0428, -0.0012, -0.0036],
    [0.0817, 0.0765, 0.0749],
    [-0.1264, -0.0522, -0.1103],
    [-0.0280, -0.0881, -0.0499],
    [-0.1262, -0.0982, -0.0778],
];

impl Preview {
    /// For a painter's latents: by the tiny autoencoder beside its model, where there is one and it was planned for
    /// ([`Shape::shown`](super::Shape)).
    ///
    /// # Errors
    /// That one cannot be run.
    pub fn new(painter: &Painter, threads: usize) -> Result<Preview> {
        let pipeline = painter.pipeline();
        let planned = painter.room.as_ref().is_none_or(|room| room.shape.shown);
        let Some(part) = pipeline.part(Role::Preview).filter(|_| planned) else {
            return Ok(Preview(match pipeline.family {
                Family::Sd1 | Family::Sd2 => How::Colours(&SD, [0.0; 3]),
                Family::Sdxl | Family::SdxlRefiner => How::Colours(&SDXL, [0.1084, -0.0175, -0.0011]),
                Family::FluxSchnell | Family::FluxDev => How::Colours(&FLUX, [-0.0329, -0.0718, -0.0851]),
            }));
        };
        let named = |e: String| Error::Ask(format!("{} cannot be run: {e}", part.path().display()));
        let config = Box::new(tae::Config::parse(&part.config).map_err(named)?);
        let cpu = Cpu::new(threads, Precision::Fast);
        Ok(Preview(How::Tiny { config, pipeline: pipeline.clone(), network: None, cpu }))
    }

    /// Lets go of its memory until the next picture.
    pub fn rest(&mut self) {
        if let How::Tiny { network, .. } = &mut self.0 {
            *network = None;
        }
    }

    /// The picture that latents `(C, h, w)` stand for, in whatever size comes cheaply.
    ///
    /// # Errors
    /// They are of another model, the tiny autoencoder's weights do not fit, or memory.
    pub fn picture(&mut self, latents: &[f32], height: usize, width: usize) -> Result<Picture> {
        match &mut self.0 {
            How::Tiny { config, pipeline, network, cpu } => {
                let own = &pipeline.need(Role::Preview).map_err(ask)?.config;
                let number = |key: &str, usual: f64| own[key].as_f64().unwrap_or(usual) as f32;
                let (scale, shift) = (number("scaling_factor", 1.0), number("shift_factor", 0.0));
                let network = match network {
                    Some(network) => network,
                    None => {
                        let new = Network::new(pipeline, Role::Preview, &Updates::default(), cpu)?;
                        network.insert(Box::new(new))
                    }
                };
                let latents: Vec<f32> = latents.iter().map(|x| x / scale + shift).collect();
                let (key, inputs) = ([0, height, width, 0], [("latents", Data::F32(&latents))]);
                let graph = || config.decoder(1, height, width);
                let [pixels] = network.run(cpu, key, graph, &inputs, ["pixels"])?;
                let by = ((pixels.len() / 3) as f64 / (height * width).max(1) as f64).sqrt() as usize;
                Picture::from_planes(&pixels, by * width, by * height).map_err(Error::Ask)
            }
            How::Colours(factors, first) => {
                let pixels = colours(latents, factors, *first);
                Picture::from_planes(&pixels, width, height).map_err(Error::Ask)
            }
        }
    }
}

/// Red, green and blue in about -1..1, in the size of the latents; of channels that are not known nothing shows.
fn colours(latents: &[f32], factors: &[[f32; 3]], first: [f32; 3]) -> Vec<f32> {
    let area = latents.len() / factors.len();
    let of = |c: usize| {
        (0..area).map(move |i| {
            first[c] + factors.iter().enumerate().map(|(k, f)| f[c] * latents[k * area + i]).sum::<f32>()
        })
    };
    (0..3).flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_mapped_to_colours() {
        // Two pixels, of which the second has the first channel alone.
        let latents = [1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let found = colours(&latents, &SD, [0.0, 0.5, 0.0]);
        let wanted = [
            0.3512 + 0.3250,
            2.0 * 0.3512,
            0.5 + 0.2297 + 0.4974,
            0.5 + 2.0 * 0.2297,
            0.3227 + 0.2350,
            2.0 * 0.3227,
        ];
        assert!(found.iter().zip(wanted).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{found:?}");
    }
}
