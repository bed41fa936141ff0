//! One step of a picture: what the denoiser says of it, with guidance and with what holds it.

use super::At;
use super::network::Network;
use super::painter::{Control, Denoiser, Open, Painter, Request, ask};
use super::words::Said;
use crate::Result;
use hob_graph::Data;
use hob_models::{flux, unet};
use std::borrow::Cow;

/// Numbers by name, which may lie where they were made.
type Named<'a> = (&'a str, Cow<'a, [f32]>);

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
        extra: &[f32],
    ) -> Result<Vec<f32>> {
        let prediction = self.scheduler.prediction;
        let input = prediction.input(x, sigma);
        let (parts, negative) = r.script.at(call);
        let &(prompt, weight) = parts.first().ok_or_else(|| ask("there is no prompt"))?;
        let together = parts.len() > 1 || weight != 1.0;
        let negative = negative.filter(|_| together || r.guidance.is_on());
        let mut out = match &self.denoiser {
            Denoiser::Flux(c) => {
                let shape = [1, x.len() / (h * w), h / 2, w / 2];
                let packed = flux::pack(&input, shape);
                let size = flux::Size { batch: 1, text: prompt.tokens, height: h / 2, width: w / 2 };
                let (time, guidance) = ([time / self.scheduler.betas.count as f32], [r.told]);
                let mut inputs = vec![
                    ("latents", Data::F32(&packed)),
                    ("text", Data::F32(&prompt.states)),
                    ("pooled", Data::F32(&prompt.pooled)),
                    ("timestep", Data::F32(&time)),
                ];
                if c.guidance_embeds {
                    inputs.push(("guidance", Data::F32(&guidance)));
                }
                let key = [1, h, w, prompt.tokens];
                let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
                flux::unpack(&sample, shape)
            }
            Denoiser::Unet(_) => {
                // Of pictures that were scored by their beauty, what is led away from has less of it.
                let texts: Vec<_> = (negative.map(|text| (text, 2.5)).into_iter())
                    .chain(parts.iter().map(|&(text, _)| (text, 6.0)))
                    .collect();
                // Planned are two side by side, or one.
                let split = self.room.as_ref().is_some_and(|room| room.split) || texts.len() > 2;
                let mut away = usize::from(negative.is_some());
                let mut said = Vec::new();
                for texts in texts.chunks(if split { 1 } else { texts.len() }) {
                    said.extend(self.sampled(open, r, &input, extra, (time, h, w), texts, away)?);
                    away = 0;
                }
                if negative.is_some() {
                    let mut sum = said.split_off(input.len());
                    if together {
                        sum = weighed(&sum, &said, &parts);
                    }
                    r.guidance.combine(&mut sum, &said, 1);
                    said = sum;
                }
                said
            }
        };
        prediction.denoised(x, &mut out, sigma);
        Ok(out)
    }

    /// What a UNet says of `input` with each of some texts, one after another, of which the first `away` are led away from.
    /// Beside each is the beauty asked for.
    fn sampled(
        &self,
        open: &mut Open,
        r: &Request,
        input: &[f32],
        extra: &[f32],
        (time, h, w): (f32, usize, usize),
        texts: &[(&Said, f32)],
        away: usize,
    ) -> Result<Vec<f32>> {
        let Denoiser::Unet(c) = &self.denoiser else { return Err(ask("the denoiser is no UNet")) };
        let (n, like) = (texts.len(), texts[0].0);
        let latents = [input, extra].concat().repeat(n);
        let all =
            |of: fn(&Said) -> &Vec<f32>| texts.iter().flat_map(|(s, _)| of(s)).copied().collect::<Vec<f32>>();
        let (text, pooled) = (all(|s| &s.states), all(|s| &s.pooled));
        let times = vec![time; n];
        let count = c.time_ids(like.pooled.len()).unwrap_or(0);
        let (height, width) = (r.height as f32, r.width as f32);
        // Of SDXL: the original's size, its corner, the target's size; of its refiner a score of beauty instead.
        let ids = |&(_, beauty): &(&Said, f32)| match count {
            5 => vec![height, width, 0.0, 0.0, beauty],
            _ => vec![height, width, 0.0, 0.0, height, width],
        };
        let ids: Vec<f32> = texts.iter().flat_map(ids).collect();
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
        if let (Some(control), Some(given)) = (&mut open.control, r.control) {
            held = self.held(control, given, size, input, &inputs, away)?;
        }
        if !held.is_empty() {
            (size.residuals, key[0]) = (true, n | 1 << 32);
        }
        inputs.extend(held.iter().map(|(name, x)| (*name, Data::F32(x))));
        let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
        Ok(sample)
    }

    /// What the ControlNet adds to the UNet, which is given `latents` and `inputs` for texts of which the first `away` are
    /// led away from. It lies where the ControlNet made it, where that is for all of them.
    fn held<'a>(
        &self,
        network: &'a mut Network,
        control: &Control,
        mut size: unet::Size,
        latents: &[f32],
        inputs: &[(&str, Data)],
        away: usize,
    ) -> Result<Vec<Named<'a>>> {
        let c = self.control.as_ref().expect("there is a network of it");
        // One that says the same everywhere is for what has the prompt alone, as diffusers' pipeline has it.
        let (all, none) = (size.batch, if c.global_pool_conditions { away } else { 0 });
        size.batch = all - none;
        let n = size.batch;
        if n == 0 {
            return Ok(Vec::new());
        }
        let (latents, image) = (times(latents, n), times(&control.image, n));
        let scales = vec![control.strength; c.residuals()];
        let mut mine = vec![
            ("latents", Data::F32(&latents)),
            ("image", Data::F32(&image)),
            ("scales", Data::F32(&scales)),
        ];
        for (name, data) in inputs.iter().filter(|(name, _)| !["latents", "guidance"].contains(name)) {
            let Data::F32(x) = *data else { continue };
            mine.push((*name, Data::F32(&x[x.len() - x.len() / all * n..])));
        }
        let key = [n, size.height, size.width, size.text];
        network.ran(&self.cpu, key, || c.graph(size), &mine)?;
        let beside = |x: &'a [f32]| match none {
            0 => Cow::Borrowed(x),
            _ => [&vec![0.0; x.len() / n * none][..], x].concat().into(),
        };
        Ok(network.outputs().map(|(name, _, x)| (name, beside(x))).collect())
    }
}

/// Numbers so many times, one after another.
fn times(x: &[f32], n: usize) -> Cow<'_, [f32]> {
    if n == 1 { x.into() } else { x.repeat(n).into() }
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
