//! One step of a picture: what the denoiser says of it, with guidance and with what holds it.

use super::At;
use super::network::Network;
use super::painter::{Control, Denoiser, Open, Painter, Request, ask};
use super::words::Said;
use crate::Result;
use hob_graph::Data;
use hob_models::{flux, unet};

impl Painter {
    /// The picture in x, by the denoiser and guidance.
    pub(super) fn denoised(
        &self,
        open: &mut Open,
        r: &Request,
        x: &[f32],
        At { sigma, time, .. }: At,
        (h, w): (usize, usize),
        extra: &[f32],
    ) -> Result<Vec<f32>> {
        let prediction = self.scheduler.prediction;
        let input = prediction.input(x, sigma);
        let mut out = match &self.denoiser {
            Denoiser::Flux(c) => {
                let shape = [1, x.len() / (h * w), h / 2, w / 2];
                let packed = flux::pack(&input, shape);
                let size = flux::Size { batch: 1, text: r.prompt.tokens, height: h / 2, width: w / 2 };
                let (time, guidance) = ([time / self.scheduler.betas.count as f32], [r.told]);
                let mut inputs = vec![
                    ("latents", Data::F32(&packed)),
                    ("text", Data::F32(&r.prompt.states)),
                    ("pooled", Data::F32(&r.prompt.pooled)),
                    ("timestep", Data::F32(&time)),
                ];
                if c.guidance_embeds {
                    inputs.push(("guidance", Data::F32(&guidance)));
                }
                let key = [1, h, w, r.prompt.tokens];
                let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
                flux::unpack(&sample, shape)
            }
            Denoiser::Unet(_) => {
                let said = |open: &mut Open, texts: &[&Said]| {
                    self.sampled(open, r, &input, extra, (time, h, w), texts)
                };
                let split = r.control.is_none() && self.room.as_ref().is_some_and(|room| room.split);
                match r.guidance.is_on() {
                    false => said(open, &[r.prompt])?,
                    true => {
                        let (without, mut with) = match split {
                            true => (said(open, &[r.negative])?, said(open, &[r.prompt])?),
                            false => {
                                let mut both = said(open, &[r.negative, r.prompt])?;
                                let with = both.split_off(both.len() / 2);
                                (both, with)
                            }
                        };
                        r.guidance.combine(&mut with, &without, 1);
                        with
                    }
                }
            }
        };
        prediction.denoised(x, &mut out, sigma);
        Ok(out)
    }

    /// What a UNet says of `input` with each of some texts, one after another.
    fn sampled(
        &self,
        open: &mut Open,
        r: &Request,
        input: &[f32],
        extra: &[f32],
        (time, h, w): (f32, usize, usize),
        texts: &[&Said],
    ) -> Result<Vec<f32>> {
        let Denoiser::Unet(c) = &self.denoiser else { return Err(ask("the denoiser is no UNet")) };
        let n = texts.len();
        let latents = [input, extra].concat().repeat(n);
        let all =
            |of: fn(&Said) -> &Vec<f32>| texts.iter().flat_map(|s| of(s)).copied().collect::<Vec<f32>>();
        let (text, pooled) = (all(|s| &s.states), all(|s| &s.pooled));
        let times = vec![time; n];
        let count = c.time_ids(r.prompt.pooled.len()).unwrap_or(0);
        let (height, width) = (r.height as f32, r.width as f32);
        // Of SDXL: the original's size, its corner, the target's size; of its refiner a score of beauty instead.
        let ids = |text: &&Said| match count {
            5 => vec![height, width, 0.0, 0.0, if std::ptr::eq(*text, r.prompt) { 6.0 } else { 2.5 }],
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
        let mut size = self.unet_sizes(n, h, w, r.prompt.tokens, r.prompt.pooled.len());
        let mut key = [n, h, w, r.prompt.tokens];
        let mut held = Vec::new();
        if let (Some(control), Some(given)) = (&mut open.control, r.control) {
            held = self.held(control, given, size, input, &inputs)?;
            (size.residuals, key[0]) = (true, n + 2);
        }
        inputs.extend(held.iter().map(|(name, x)| (name.as_str(), Data::F32(x))));
        let [sample] = open.denoiser.run(&self.cpu, key, || c.graph(size), &inputs, ["sample"])?;
        Ok(sample)
    }

    /// What the ControlNet adds to the UNet, which is given `latents` and `inputs`.
    fn held(
        &self,
        network: &mut Network,
        control: &Control,
        mut size: unet::Size,
        latents: &[f32],
        inputs: &[(&str, Data)],
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let c = self.control.as_ref().expect("there is a network of it");
        // One that says the same everywhere is for the half with the prompt alone, as diffusers' pipeline has it.
        let (all, half) = (size.batch, c.global_pool_conditions && size.batch == 2);
        size.batch = if half { 1 } else { all };
        let n = size.batch;
        let (latents, image) = (latents.repeat(n), control.image.repeat(n));
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
        let mut said = network.run_all(&self.cpu, key, || c.graph(size), &mine)?;
        if half {
            said.iter_mut().for_each(|(_, x)| *x = [vec![0.0; x.len()], std::mem::take(x)].concat());
        }
        Ok(said)
    }
}
