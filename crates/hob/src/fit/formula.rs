//! What making images and videos, and tuning language models, will need: by formula, until their graphs are built.
//!
//! Parameters, tokens and TFLOP are those of diffusers' networks, counted on its `meta` device; the formulas of memory
//! are held by the tests to what others measured. The phases of a run (text encoder, denoiser, decoder) hold their
//! weights in turn, so that the largest phase decides, and not their sum.

mod pictures;
pub mod training;

/// What a row makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Image,
    Video,
    Training,
}

/// The format of most weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Precision {
    /// 16 bits
    Bf16,
    /// 8 bits, one scale for a matrix
    Fp8,
    /// GGUF's Q8_0
    Q8_0,
    /// GGUF's Q4_K_S, as pictures' denoisers come in it
    Q4_K,
    /// 4 bits in blocks of 64 with scales that are themselves in 8 bits (QLoRA, Dettmers et al. 2023)
    Nf4,
}

impl Precision {
    /// Bits a weight, scales included.
    pub const fn bits(self) -> f64 {
        match self {
            Precision::Bf16 => 16.0,
            Precision::Fp8 => 8.0,
            Precision::Q8_0 => 8.5,
            Precision::Q4_K => 4.58,
            Precision::Nf4 => 4.13,
        }
    }

    /// The field's name.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Bf16 => "BF16",
            Precision::Fp8 => "FP8",
            Precision::Q8_0 => "Q8_0",
            Precision::Q4_K => "Q4_K_S",
            Precision::Nf4 => "NF4",
        }
    }

    /// Bytes of `parameters` weights.
    pub fn bytes(self, parameters: f64) -> u64 {
        (parameters * self.bits() / 8.0) as u64
    }
}

/// A part of a run that holds weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// what it is, such as `denoiser`
    pub name: &'static str,
    /// its weights
    pub weights_bytes: u64,
    /// intermediate results
    pub activation_bytes: u64,
    /// the least of its weights that must be there at once, when the others are streamed: two of its blocks, the one
    /// that computes and the one that comes
    pub streamed_bytes: u64,
}

/// A row in one format.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// the format of the large weights; small encoders and decoders keep 16 bits
    pub precision: Precision,
    /// the phases in their order
    pub phases: Vec<Phase>,
    /// weights of the phase that needs most
    pub weights_bytes: u64,
    /// intermediate results of that phase
    pub activation_bytes: u64,
    /// what a GPU's context and workspaces take beside
    pub overhead_bytes: u64,
    /// all that is held at once, with the phases' weights resident in turn: the three above
    pub total_bytes: u64,
    /// the same with weights streamed from the machine's memory block by block
    pub least_bytes: u64,
    /// weights of all phases, as a disk or the machine's memory holds them
    pub file_bytes: u64,
}

/// Context, libraries' workspaces and what an allocator loses, of one process on a GPU: half a GiB, in the middle of what
/// CUDA's context alone (0.3 GB) and with a matrix library's workspace (0.7 GB) takes.
pub const OVERHEAD: u64 = 1 << 29;

impl Variant {
    fn of(precision: Precision, phases: Vec<Phase>) -> Variant {
        let most =
            |bytes: fn(&Phase) -> u64| phases.iter().max_by_key(|p| bytes(p) + p.activation_bytes).unwrap();
        let (largest, least) = (most(|p| p.weights_bytes), most(|p| p.streamed_bytes));
        Variant {
            precision,
            weights_bytes: largest.weights_bytes,
            activation_bytes: largest.activation_bytes,
            overhead_bytes: OVERHEAD,
            total_bytes: largest.weights_bytes + largest.activation_bytes + OVERHEAD,
            least_bytes: least.streamed_bytes + least.activation_bytes + OVERHEAD,
            file_bytes: phases.iter().map(|p| p.weights_bytes).sum(),
            phases,
        }
    }

    /// The phase that needs most.
    #[cfg(test)]
    pub fn largest(&self) -> &Phase {
        self.phases.iter().max_by_key(|p| p.weights_bytes + p.activation_bytes).expect("there are phases")
    }
}

/// A model and a usual way to use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// what a person types, such as `flux-dev`
    pub name: &'static str,
    /// what it is called
    pub title: &'static str,
    /// what it makes
    pub kind: Kind,
    /// the size planned for, such as `1024×1024` or `480×832, 81 frames`
    pub setting: String,
    /// parameters of the network that runs at every step
    pub parameters: u64,
    /// in each format, the largest first
    pub variants: Vec<Variant>,
    /// products and sums of one step, TFLOP, with both halves of classifier-free guidance where it is used
    pub tflop_per_step: f64,
    /// those before and after the steps: text encoder and decoder
    pub tflop_once: f64,
    /// steps of a usual run; 1 for training, whose step is one batch
    pub steps: u32,
    /// where the numbers come from
    pub source: &'static str,
}

/// All rows: images, videos, training.
pub fn rows() -> Vec<Row> {
    pictures::rows().into_iter().chain(training::rows()).collect()
}

/// Intermediate results of a transformer over `tokens` of the width `d`, in 16 bits with blocked attention: ten such
/// matrices (the stream, its normed copy, queries, keys, values, what attention made, the wider halves of the MLP), the
/// upper end of the 8 to 10 that implementations hold.
pub fn transformer(tokens: usize, d: usize) -> u64 {
    (tokens * d * 2 * 10) as u64
}

/// Those of a diffusion U-Net on `height`×`width` pixels: 32 maps of its first level's 320 channels in 16 bits at an
/// eighth of the resolution, half of them kept for the way up.
pub fn unet(height: usize, width: usize) -> u64 {
    (height / 8 * (width / 8) * 320 * 2 * 32) as u64
}

/// Those of a decoder on one tile of `height`×`width` pixels at `bytes` a pixel.
pub fn decoder(height: usize, width: usize, bytes: usize) -> u64 {
    (height * width * bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const GIB: f64 = (1u64 << 30) as f64;

    fn variant(name: &str, precision: Precision) -> Variant {
        let row = rows().into_iter().find(|row| row.name == name).unwrap();
        row.variants.into_iter().find(|v| v.precision == precision).unwrap()
    }

    #[test]
    fn rows_are_sound() {
        let rows = rows();
        assert_eq!(rows.iter().map(|row| row.name).collect::<HashSet<_>>().len(), rows.len());
        for row in &rows {
            assert!(row.variants.is_sorted_by(|a, b| a.total_bytes >= b.total_bytes), "{}", row.name);
            assert!(row.steps > 0 && row.tflop_per_step > 0.0 && !row.source.is_empty());
            for v in &row.variants {
                assert_eq!(v.total_bytes, v.weights_bytes + v.activation_bytes + v.overhead_bytes);
                assert!(v.least_bytes <= v.total_bytes && v.weights_bytes <= v.file_bytes, "{}", row.name);
                assert_eq!(v.largest().weights_bytes, v.weights_bytes);
            }
        }
    }

    /// Weights of the denoisers in GB, as diffusion.md lists them: BF16, FP8, Q8_0, Q4_K_S.
    #[test]
    fn weights_are_those_of_the_files() {
        for (name, expected) in [
            ("sd-1.5", [1.7, 0.86, 0.91, 0.49]),
            ("sdxl", [5.1, 2.6, 2.7, 1.5]),
            ("flux-dev", [23.8, 11.9, 12.6, 6.8]),
            ("ltx-2b", [3.8, 1.9, 2.0, 1.1]),
            ("ltx-13b", [26.1, 13.0, 13.9, 7.5]),
            ("hunyuanvideo", [25.6, 12.8, 13.6, 7.3]),
            ("wan-2.1-1.3b", [2.8, 1.4, 1.5, 0.8]),
            ("wan-2.2-5b", [10.0, 5.0, 5.3, 2.9]),
            ("wan-2.1-14b", [28.6, 14.3, 15.2, 8.2]),
            ("wan-2.1-14b-i2v", [32.8, 16.4, 17.4, 9.4]),
        ] {
            for (precision, gb) in
                [Precision::Bf16, Precision::Fp8, Precision::Q8_0, Precision::Q4_K].into_iter().zip(expected)
            {
                let v = variant(name, precision);
                let denoiser = v.phases.iter().find(|p| p.name == "denoiser").unwrap();
                let ours = denoiser.weights_bytes as f64 / 1e9;
                assert!((ours - gb).abs() <= 0.051, "{name} in {}: {ours} GB, {gb} listed", precision.name());
            }
        }
    }

    /// Flux's denoiser alone as diffusers measured it: 22.6 GiB in BF16, 6.7 in 4 bits, 0.55 with every layer streamed.
    #[test]
    fn flux_is_as_measured() {
        for (precision, measured) in [(Precision::Bf16, 22.6), (Precision::Q4_K, 6.7)] {
            let v = variant("flux-dev", precision);
            let denoiser = v.phases.iter().find(|p| p.name == "denoiser").unwrap();
            let ours = (denoiser.weights_bytes + denoiser.activation_bytes) as f64 / GIB;
            assert!((ours / measured - 1.0).abs() < 0.03, "{ours} GiB, {measured} measured");
        }
        // We stream whole blocks, which are several layers: more than 0.55 GiB, and far from 22.6.
        let least = (variant("flux-dev", Precision::Bf16).least_bytes - OVERHEAD) as f64 / GIB;
        assert!((0.55..2.0).contains(&least), "{least} GiB");
    }

    /// What each size of memory is known to run.
    #[test]
    fn memories_run_what_people_run_in_them() {
        use Precision::*;
        for (gib, name, precision) in [
            (8.0, "sd-1.5", Bf16),
            (8.0, "sdxl", Bf16),
            (8.0, "flux-dev", Q4_K),
            (8.0, "ltx-2b", Q8_0),
            (8.0, "wan-2.1-1.3b", Fp8),
            (12.0, "wan-2.2-5b", Q8_0),
            (16.0, "flux-dev", Fp8),
            (16.0, "hunyuanvideo", Q4_K),
            (24.0, "flux-dev", Bf16),
            (24.0, "wan-2.1-14b", Fp8),
            (32.0, "wan-2.1-14b-720p", Fp8),
            (128.0, "wan-2.2-a14b", Bf16),
        ] {
            let total = variant(name, precision).total_bytes as f64 / GIB;
            assert!(total < gib, "{name} in {}: {total} GiB of {gib}", precision.name());
        }
        // Only streamed.
        for (gib, name, precision) in
            [(8.0, "wan-2.1-14b", Q4_K), (12.0, "flux-dev", Q8_0), (24.0, "ltx-13b", Bf16)]
        {
            let v = variant(name, precision);
            assert!(v.total_bytes as f64 / GIB > gib && (v.least_bytes as f64) / GIB < gib, "{name}");
        }
    }

    /// ComfyUI's estimates of one batch item, which are coarse: within a factor of four, and of the same order.
    #[test]
    fn activations_are_of_the_known_order() {
        for (ours, mib) in [
            (unet(512, 512), 82.0),
            (unet(1024, 1024), 262.0),
            (transformer(4096 + 512, 3072), 1016.0),
            (transformer(4992, 2048), 549.0),
            (transformer(32_760, 1536), 1812.0),
            (transformer(75_600, 5120), 13_936.0),
            (transformer(67_320 + 256, 3072), 9694.0),
        ] {
            let ratio = ours as f64 / (mib * 1048576.0);
            assert!((0.25..1.5).contains(&ratio), "{ours} bytes are {ratio} of {mib} MiB");
        }
    }
}
