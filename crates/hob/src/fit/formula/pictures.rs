//! Images and videos. Parameters, sizes and TFLOP: diffusers 0.40 on its `meta` device; steps and guidance: its pipelines'
//! defaults and the models' cards.

use super::{Kind, Phase, Precision, Row, Variant, decoder, transformer, unet};

/// A network: millions of parameters, and blocks alike of which it is made.
#[derive(Clone, Copy)]
struct Net {
    millions: f64,
    blocks: f64,
    /// too small to be worth fewer than 16 bits
    small: bool,
}

const fn net(millions: f64, blocks: f64) -> Net {
    Net { millions, blocks, small: false }
}

const fn small(millions: f64) -> Net {
    Net { millions, blocks: 2.0, small: true }
}

const CLIP_L: Net = small(123.1);
const CLIP_G: Net = small(694.7);
const CLIP_H: Net = small(632.0);
const T5: Net = net(4762.0, 24.0);
const UMT5: Net = net(5681.0, 24.0);
/// Llama 3 8B without its output matrix: HunyuanVideo reads its third last layer.
const LLAMA: Net = net(7504.9, 32.0);

/// Bytes a pixel of a decoder's intermediate results, from ComfyUI's estimates in 16 bits: images 1.14 GB at 512×512;
/// Wan 5.6 GB at 480×832 whatever the number of frames, as it decodes frame by frame.
const IMAGE_PIXEL: usize = 4356;
const WAN_PIXEL: usize = 14_000;
/// HunyuanVideo's 207 GB at 544×960×129 are 3,073 bytes a pixel and frame; tiles of 16 frames.
const HUNYUAN_PIXEL: usize = 3073 * 16;
/// LTX's 4.6 GB at 768×512×97 are 120 bytes a pixel and frame; tiles of all 121 frames.
const LTX_PIXEL: usize = 120 * 121;

struct Picture {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    setting: &'static str,
    /// text and image encoders, which run before the steps
    encoders: &'static [Net],
    /// width of the largest encoder, and its tokens
    encoded: (usize, usize),
    denoiser: Net,
    /// how many such denoisers take turns
    experts: u64,
    activations: u64,
    /// the decoder's millions, and its intermediate results on a tile
    decoder: (f64, u64),
    /// of one forward pass
    tflop: f64,
    /// passes a step: 2 with classifier-free guidance
    passes: f64,
    tflop_once: f64,
    steps: u32,
}

const SOURCE: &str =
    "diffusers 0.40 (parameters and operations counted on the meta device), ComfyUI's memory estimates";

impl Picture {
    fn variant(&self, precision: Precision) -> Variant {
        let bytes = |n: &Net| if n.small { Precision::Bf16 } else { precision }.bytes(n.millions * 1e6);
        let streamed = |n: &Net| (bytes(n) as f64 * (2.0 / n.blocks).min(1.0)) as u64;
        // Encoders run one after the other too.
        let encoder = self.encoders.iter().max_by_key(|n| bytes(n)).expect("each has one");
        let others: u64 = self.encoders.iter().map(bytes).sum::<u64>() - bytes(encoder);
        let mut phases = vec![Phase {
            name: "encoder",
            weights_bytes: bytes(encoder) + others,
            activation_bytes: transformer(self.encoded.1, self.encoded.0),
            streamed_bytes: self.encoders.iter().map(streamed).max().unwrap_or(0),
        }];
        phases.extend((0..self.experts).map(|_| Phase {
            name: "denoiser",
            weights_bytes: bytes(&self.denoiser),
            activation_bytes: self.activations,
            streamed_bytes: streamed(&self.denoiser),
        }));
        let decoder = Precision::Bf16.bytes(self.decoder.0 * 1e6);
        phases.push(Phase {
            name: "decoder",
            weights_bytes: decoder,
            activation_bytes: self.decoder.1,
            streamed_bytes: decoder,
        });
        Variant::of(precision, phases)
    }

    fn row(&self) -> Row {
        use Precision::*;
        Row {
            name: self.name,
            title: self.title,
            kind: self.kind,
            setting: self.setting.into(),
            parameters: (self.denoiser.millions * 1e6) as u64 * self.experts,
            variants: [Bf16, Q8_0, Fp8, Q4_K].map(|precision| self.variant(precision)).into(),
            tflop_per_step: self.tflop * self.passes,
            tflop_once: self.tflop_once,
            steps: self.steps,
            source: SOURCE,
        }
    }
}

/// Tokens of a video's latents: every fourth (or, for LTX, eighth) frame and the first, patches of `patch` pixels.
const fn tokens(height: usize, width: usize, frames: usize, patch: usize, every: usize) -> usize {
    ((frames - 1) / every + 1) * (height / patch) * (width / patch)
}

pub(super) fn rows() -> Vec<Row> {
    let image = |name, title, setting, denoiser, activations| Picture {
        name,
        title,
        kind: Kind::Image,
        setting,
        encoders: &[CLIP_L],
        encoded: (768, 77),
        denoiser,
        experts: 1,
        activations,
        decoder: (83.7, decoder(512, 512, IMAGE_PIXEL)),
        tflop: 0.0,
        passes: 2.0,
        tflop_once: 0.0,
        steps: 0,
    };
    let flux = |name, title, steps, millions| Picture {
        encoders: &[T5, CLIP_L],
        encoded: (4096, 512),
        tflop: 74.4,
        passes: 1.0, // guidance is an input
        tflop_once: 4.8 + 10.5,
        steps,
        ..image(name, title, "1024×1024", net(millions, 57.0), transformer(64 * 64 + 512, 3072))
    };
    let ltx = |name, title, setting, denoiser, activations| Picture {
        kind: Kind::Video,
        encoders: &[T5],
        encoded: (4096, 256),
        decoder: (1247.0, decoder(256, 256, LTX_PIXEL)),
        tflop_once: 2.0 * 4.8 + 48.0,
        ..image(name, title, setting, denoiser, activations)
    };
    let hunyuan = |name, title, setting, height, width| Picture {
        kind: Kind::Video,
        encoders: &[LLAMA, CLIP_L],
        encoded: (4096, 351),
        decoder: (246.0, decoder(256, 256, HUNYUAN_PIXEL)),
        passes: 1.0, // guidance is an input
        steps: 50,
        ..image(
            name,
            title,
            setting,
            net(12_821.0, 60.0),
            transformer(tokens(height, width, 129, 16, 4) + 256, 3072),
        )
    };
    let wan = |name, title, setting, denoiser, activations| Picture {
        kind: Kind::Video,
        encoders: &[UMT5],
        encoded: (4096, 512),
        decoder: (127.0, decoder(256, 256, WAN_PIXEL)),
        tflop_once: 2.0 * 5.8 + 275.0,
        steps: 50,
        ..image(name, title, setting, denoiser, activations)
    };
    let (sd, hd) = (tokens(480, 832, 81, 16, 4), tokens(720, 1280, 81, 16, 4));
    // A decoder's work grows with the pixels.
    let hd_once = 2.0 * 5.8 + 275.0 * (720.0 * 1280.0) / (480.0 * 832.0);
    let pictures = [
        Picture {
            tflop: 0.80,
            tflop_once: 2.5,
            steps: 25,
            ..image("sd-1.5", "Stable Diffusion 1.5", "512×512", net(859.5, 12.0), unet(512, 512))
        },
        Picture {
            encoders: &[CLIP_L, CLIP_G],
            encoded: (1280, 77),
            tflop: 6.76,
            tflop_once: 10.5,
            steps: 30,
            ..image("sdxl", "Stable Diffusion XL", "1024×1024", net(2567.5, 12.0), unet(1024, 1024))
        },
        flux("flux-schnell", "Flux.1 schnell", 4, 11_891.0),
        flux("flux-dev", "Flux.1 dev", 28, 11_901.0),
        Picture {
            tflop: 22.3,
            steps: 40,
            ..ltx(
                "ltx-2b",
                "LTX-Video 2B",
                "512×768, 97 frames",
                net(1923.0, 28.0),
                transformer(tokens(512, 768, 97, 32, 8), 2048),
            )
        },
        Picture {
            tflop: 444.0,
            tflop_once: 2.0 * 4.8 + 48.0 * (704.0 * 1216.0 * 121.0) / (512.0 * 768.0 * 97.0),
            steps: 30,
            ..ltx(
                "ltx-13b",
                "LTX-Video 13B",
                "704×1216, 121 frames",
                net(13_043.0, 48.0),
                transformer(tokens(704, 1216, 121, 32, 8), 4096),
            )
        },
        Picture {
            tflop: 283.0,
            ..wan(
                "wan-2.1-1.3b",
                "Wan 2.1 1.3B",
                "480×832, 81 frames",
                net(1419.0, 30.0),
                transformer(sd, 1536),
            )
        },
        Picture {
            tflop: 517.0,
            decoder: (705.0, decoder(256, 256, WAN_PIXEL)),
            tflop_once: 2.0 * 5.8 + 2011.0,
            ..wan(
                "wan-2.2-5b",
                "Wan 2.2 5B",
                "704×1280, 121 frames",
                net(5000.0, 30.0),
                transformer(tokens(704, 1280, 121, 32, 4), 3072),
            )
        },
        Picture {
            tflop: 4285.0,
            tflop_once: 7.7 + 1673.0,
            ..hunyuan("hunyuanvideo", "HunyuanVideo", "544×960, 129 frames", 544, 960)
        },
        Picture {
            tflop: 12_069.0,
            tflop_once: 7.7 + 1673.0 * (720.0 * 1280.0) / (544.0 * 960.0),
            ..hunyuan("hunyuanvideo-720p", "HunyuanVideo", "720×1280, 129 frames", 720, 1280)
        },
        Picture {
            tflop: 1678.0,
            ..wan(
                "wan-2.1-14b",
                "Wan 2.1 14B",
                "480×832, 81 frames",
                net(14_288.0, 40.0),
                transformer(sd, 5120),
            )
        },
        Picture {
            tflop: 6523.0,
            tflop_once: hd_once,
            ..wan(
                "wan-2.1-14b-720p",
                "Wan 2.1 14B",
                "720×1280, 81 frames",
                net(14_288.0, 40.0),
                transformer(hd, 5120),
            )
        },
        Picture {
            encoders: &[UMT5, CLIP_H],
            tflop: 1678.0,
            ..wan(
                "wan-2.1-14b-i2v",
                "Wan 2.1 14B, from an image",
                "480×832, 81 frames",
                net(16_395.0, 40.0),
                transformer(sd, 5120),
            )
        },
        Picture {
            experts: 2,
            tflop: 6523.0,
            tflop_once: hd_once,
            steps: 40,
            ..wan(
                "wan-2.2-a14b",
                "Wan 2.2 A14B (two of 14B in turn)",
                "720×1280, 81 frames",
                net(14_289.0, 40.0),
                transformer(hd, 5120),
            )
        },
    ];
    pictures.iter().map(Picture::row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::OVERHEAD;
    use super::*;

    #[test]
    fn tokens_are_those_that_were_counted() {
        assert_eq!(tokens(512, 768, 97, 32, 8), 4992);
        assert_eq!(tokens(480, 832, 81, 16, 4), 32_760);
        assert_eq!(tokens(720, 1280, 81, 16, 4), 75_600);
        assert_eq!(tokens(704, 1280, 121, 32, 4), 27_280);
    }

    /// A tile of a decoder never needs more than the denoiser of the same model in 8 bits, nor the whole of it.
    #[test]
    fn decoders_in_tiles_do_not_decide() {
        for row in rows().iter().filter(|row| row.parameters > 1_500_000_000) {
            let v = row.variants.iter().find(|v| v.precision == Precision::Fp8).unwrap();
            let decoder = v.phases.last().unwrap();
            assert!(
                decoder.weights_bytes + decoder.activation_bytes + OVERHEAD <= v.total_bytes,
                "{}",
                row.name
            );
        }
        // The untiled decoders that others run out of memory on.
        assert!(decoder(544, 960, HUNYUAN_PIXEL) * 129 / 16 > 200_000_000_000);
    }
}
