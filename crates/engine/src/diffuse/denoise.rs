//! One step of a picture: what the denoiser says of it, with guidance and with what holds it.

use super::At;
use super::held::{Controller, Held};
use super::look::Seen;
use super::painter::{Denoiser, Open, Painter, Request, ask};
use super::words::Said;
use crate::Result;
use hob_graph::Data;
use hob_io::pipeline::Purpose;
use hob_models::flux;

impl Painter {
    /// The picture in x, by the denoiser and guidance.
    pub(super) fn denoised(
        &self,
        open: &mut Open,
        r: &Request,
        call: usize,
        x: &[f32],
        At { sigma, time, .. }: At,
        (h, w): (usize, usize),
        seen: &Seen,
    ) -> Result<Vec<f32>> {
        let prediction = self.scheduler.prediction;
        let input = prediction.input(x, sigma);
        let (parts, negative) = r.script.at(call);
        let &(prompt, weight) = parts.first().ok_or_else(|| ask("there is no prompt"))?;
        let together = parts.len() > 1 || weight != 1.0;
        let negative = negative.filter(|_| together || r.guidance.is_on());
        let mut out = match &self.denoiser {
            Denoiser::Flux(_) => self.flowed(open, r, prompt, &input, seen, (time, h, w))?,
            Denoiser::Unet(_) => {
                // A model that edits may be led away from what it says without the picture, too.
                let alone = self.pipeline.purpose == Purpose::Edit && r.image_cfg != 1.0;
                let away = |seen| negative.map(|said| Beside { said, away: true, seen });
                let sides: Vec<_> = (away(false).filter(|_| alone).into_iter().chain(away(true)))
                    .chain(parts.iter().map(|&(said, _)| Beside { said, away: false, seen: true }))
                    .collect();
                // Planned are as many side by side, or one.
                let split = self.room.as_ref().is_some_and(|room| room.split) || sides.len() > self.sides();
                let some = if split { 1 } else { sides.len() };
                let mut said = Vec::new();
                for sides in sides.chunks(some) {
                    said.extend(self.sampled(open, r, &input, &seen.beside, (time, h, w), sides)?);
                }
                if negative.is_some() {
                    let n = input.len();
                    let nothing: Vec<f32> = said.drain(..if alone { n } else { 0 }).collect();
                    let mut sum = said.split_off(n);
                    if together {
                        sum = weighed(&sum, &said, &parts);
                    }
                    r.guidance.combine(&mut sum, &said, 1);
                    // Brooks et al. 2023, equation 3: what the picture says counts image_cfg times.
                    let each = sum.iter_mut().zip(&said).zip(&nothing);
                    each.for_each(|((sum, image), nothing)| *sum += (r.image_cfg - 1.0) * (image - nothing));
                    said = sum;
                }
                said
            }
        };
        prediction.denoised(x, &mut out, sigma);
        Ok(out)
    }

    /// What a Flux says of `input` with a text.
    fn flowed(
        &self,
        open: &mut Open,
        r: &Request,
        said: &Said,
        input: &[f32],
        seen: &Seen,
        (time, h, w): (f32, usize, usize),
    ) -> Result<Vec<f32>> {
        let Denoiser::Flux(c) = &self.denoiser else { return Err(ask("the denoiser is no Flux")) };
        let planes = |x: &[f32], h: usize, w: usize| [1, x.len() / (h * w), h / 2, w / 2];
        let packed = |x: &[f32], h: usize, w: usize| flux::pack(x, planes(x, h, w));
        let (height, width) = (h / 2, w / 2);
        let mut size = flux::Size { batch: 1, text: said.tokens, height, width, ..flux::Size::default() };
        let mut latents = packed(&[input, &seen.beside].concat(), h, w);
        if let Some(given) = r.given.filter(|_| !seen.given.is_empty()) {
            let (h, w) = self.latents_of(given.size.0, given.size.1);
            size.beside = [h / 2, w / 2];
            latents.extend(packed(&seen.given, h, w));
        }
        let (time, guidance) = ([time / self.scheduler.betas.count as f32], [r.told]);
        let mut inputs = vec![
            ("text", Data::F32(&said.states)),
            ("pooled", Data::F32(&said.pooled)),
            ("timestep", Data::F32(&time)),
            ("guidance", Data::F32(&guidance)),
        ];
        let mut held = Vec::new();
        if let (Some(network), Some(Controller::Flux(control)), Some(given)) =
            (&mut open.control, &self.control, r.control)
        {
            let by = Held { network, config: control.as_ref(), given };
            held = self.held_flux(by, size, [&packed(input, h, w), &packed(&seen.control, h, w)], &inputs)?;
            size.added = control.added();
        }
        inputs.retain(|(name, _)| c.guidance_embeds || *name != "guidance");
        inputs.push(("latents", Data::F32(&latents)));
        inputs.extend(held.iter().map(|(name, x)| (*name, Data::F32(x))));
        let [rows, columns] = size.beside;
        let key = [1 | usize::from(!held.is_empty()) << 32, h | rows << 32, w | columns << 32, said.tokens];
        let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
        Ok(flux::unpack(&sample, planes(input, h, w)))
    }

    /// Pictures that a UNet is given side by side where guidance is on.
    pub(super) fn sides(&self) -> usize {
        if self.pipeline.purpose == Purpose::Edit { 3 } else { 2 }
    }

    /// What a UNet says of `input` on each of some sides, one after another.
    fn sampled(
        &self,
        open: &mut Open,
        r: &Request,
        input: &[f32],
        beside: &[f32],
        (time, h, w): (f32, usize, usize),
        sides: &[Beside],
    ) -> Result<Vec<f32>> {
        let Denoiser::Unet(c) = &self.denoiser else { return Err(ask("the denoiser is no UNet")) };
        let (n, like) = (sides.len(), sides[0].said);
        let nothing = vec![0.0; beside.len()];
        let planes = |side: &Beside| [input, if side.seen { beside } else { &nothing }].concat();
        let latents: Vec<f32> = sides.iter().flat_map(planes).collect();
        let all = |of: fn(&Said) -> &Vec<f32>| {
            sides.iter().flat_map(|side| of(side.said)).copied().collect::<Vec<f32>>()
        };
        let (text, pooled) = (all(|s| &s.states), all(|s| &s.pooled));
        let times = vec![time; n];
        let count = c.time_ids(like.pooled.len()).unwrap_or(0);
        let (height, width) = (r.height as f32, r.width as f32);
        // Of SDXL: the original's size, its corner, the target's size; of its refiner a score of beauty instead.
        let ids = |side: &Beside| match count {
            // Of pictures that were scored by their beauty, what is led away from has less of it.
            5 => vec![height, width, 0.0, 0.0, if side.away { 2.5 } else { 6.0 }],
            _ => vec![height, width, 0.0, 0.0, height, width],
        };
        let ids: Vec<f32> = sides.iter().flat_map(ids).collect();
        let ids = &ids[ids.len() - n * count.min(ids.len() / n)..];
        let mut inputs = vec![
            ("latents", Data::F32(&latents)),
            ("timestep", Data::F32(&times)),
            ("text", Data::F32(&text)),
        ];
        if count > 0 {
            inputs.extend([("pooled", Data::F32(&pooled)), ("time_ids", Data::F32(ids))]);
        }
        let scales = vec![r.guidance.scale; n];
        if c.time_cond_proj_dim.is_some() {
            inputs.push(("guidance", Data::F32(&scales)));
        }
        let mut size = self.unet_sizes(n, h, w, like.tokens, like.pooled.len());
        let mut key = [n, h, w, like.tokens];
        let mut held = Vec::new();
        if let (Some(network), Some(Controller::Unet(config)), Some(given)) =
            (&mut open.control, &self.control, r.control)
        {
            let away = sides.iter().filter(|side| side.away).count();
            held = self.held(Held { network, config, given }, (size, away), input, &inputs)?;
        }
        if !held.is_empty() {
            (size.residuals, key[0]) = (true, n | 1 << 32);
        }
        inputs.extend(held.iter().map(|(name, x)| (*name, Data::F32(x))));
        let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
        Ok(sample)
    }
}

/// One of the pictures that a UNet is given side by side.
struct Beside<'a> {
    /// its text
    said: &'a Said,
    /// the result is led away from it
    away: bool,
    /// it sees the picture that is to be edited
    seen: bool,
}

/// What several prompts come to, `negative + Σ weight · (prompt - negative)` (Liu et al. 2022, "Compositional Visual
/// Generation with Composable Diffusion Models"; `combine_denoised` of A1111's `sd_samplers_cfg_denoiser.py`).
fn weighed(prompts: &[f32], negative: &[f32], parts: &[(&Said, f32)]) -> Vec<f32> {
    let mut sum = negative.to_vec();
    for (prompt, (_, weight)) in prompts.chunks_exact(negative.len()).zip(parts) {
        let each = sum.iter_mut().zip(prompt).zip(negative);
        each.for_each(|((sum, p), n)| *sum += weight * (p - n));
    }
    sum
}
