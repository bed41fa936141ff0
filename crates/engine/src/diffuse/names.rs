//! Samplers and schedules by their names: ComfyUI's on the command line, A1111's labels in pictures' parameters.

use crate::near::{near, plain};

macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $kind:literal: $($(#[$each:meta])* $variant:ident $name:literal [$($label:literal),*])*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$each])* $variant),* }

        impl $type {
            /// All there are.
            pub const ALL: &[$type] = &[$($type::$variant),*];
            /// Their names, in the same order.
            pub const NAMES: &[&str] = &[$($name),*];
            const LABELS: &[&[&str]] = &[$(&[$($label),*]),*];

            /// Its name on the command line, ComfyUI's where ComfyUI has it.
            pub fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            /// Reads a name or a label of A1111's, whatever its spelling. The error names what is near.
            pub fn parse(text: &str) -> Result<$type, String> {
                if let Some(found) = Self::find(text) {
                    return Ok(found);
                }
                let near = near(&plain(text), Self::NAMES.iter().map(|n| (plain(n), *n)));
                Err(match near.is_empty() {
                    true => format!(concat!("{} is no ", $kind, "; there are {}"), text, Self::NAMES.join(", ")),
                    false => format!(concat!("{} is no ", $kind, "; did you mean {}?"), text, near.join(", ")),
                })
            }

            fn find(text: &str) -> Option<$type> {
                let text = text.trim().to_lowercase();
                let same = |name: &&str| name.to_lowercase() == text || name.replace('_', "-") == text;
                Self::ALL.iter().copied().find(|s| {
                    same(&s.name()) || Self::LABELS[*s as usize].iter().any(|l| same(l))
                })
            }
        }
    };
}

named! {
    /// How a walk from noise to picture is made.
    Sampler, "sampler":
    /// Euler's method (Karras et al. 2022, algorithm 2); for flows as well
    Euler "euler" ["k_euler"]
    /// Euler with fresh noise in every step
    EulerAncestral "euler_ancestral" ["Euler a", "k_euler_a", "euler_a", "ddpm"]
    /// Heun's method: two evaluations a step
    Heun "heun" ["k_heun"]
    /// DPM-Solver-2 in k-diffusion's form: two evaluations a step
    Dpm2 "dpm_2" ["DPM2", "k_dpm_2"]
    /// DPM-Solver-2 with fresh noise
    Dpm2Ancestral "dpm_2_ancestral" ["DPM2 a", "k_dpm_2_a"]
    /// linear multistep of order 4
    Lms "lms" ["k_lms"]
    /// pseudo linear multistep (Liu et al. 2022): PNDM as Stable Diffusion 1.5 came with it
    Plms "plms" ["pndm"]
    /// DPM-Solver++ (Lu et al. 2022), single steps of order 2 with fresh noise: two evaluations a step
    Dpmpp2sAncestral "dpmpp_2s_ancestral" ["DPM++ 2S a", "k_dpmpp_2s_a"]
    /// DPM-Solver++, stochastic: two evaluations a step
    DpmppSde "dpmpp_sde" ["DPM++ SDE", "dpmpp_sde_gpu"]
    /// DPM-Solver++, multistep of order 2
    Dpmpp2m "dpmpp_2m" ["DPM++ 2M", "k_dpmpp_2m"]
    /// the same, stochastic
    Dpmpp2mSde "dpmpp_2m_sde" ["DPM++ 2M SDE", "dpmpp_2m_sde_gpu"]
    /// the same with Heun's second order
    Dpmpp2mSdeHeun "dpmpp_2m_sde_heun" ["DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun_gpu"]
    /// DPM-Solver++, multistep of order 3; diffusers has it, ComfyUI only the stochastic one
    Dpmpp3m "dpmpp_3m" ["DPM++ 3M"]
    /// DPM-Solver++, multistep of order 3, stochastic
    Dpmpp3mSde "dpmpp_3m_sde" ["DPM++ 3M SDE", "dpmpp_3m_sde_gpu"]
    /// UniPC (Zhao et al. 2023), variant B1
    UniPc "uni_pc" []
    /// UniPC, variant B2
    UniPcBh2 "uni_pc_bh2" ["UniPC"]
    /// DDIM (Song et al. 2020); with eta, noise comes back
    Ddim "ddim" []
    /// of latent consistency models (Luo et al. 2023): the picture with fresh noise in every step
    Lcm "lcm" []
}

named! {
    /// Which noise levels a walk goes through, as ComfyUI computes them.
    Schedule, "schedule":
    /// evenly in timesteps, both ends included
    Normal "normal" ["Uniform"]
    /// Karras et al. 2022, rho = 7
    Karras "karras" []
    /// evenly in the logarithm of sigma
    Exponential "exponential" []
    /// evenly in timesteps, without the last: what Lightning and Hyper checkpoints want
    SgmUniform "sgm_uniform" ["SGM Uniform", "SGMUniform"]
    /// every so manieth of the trained levels, from the top
    Simple "simple" []
    /// every so manieth of the trained levels, from the bottom
    DdimUniform "ddim_uniform" ["DDIM"]
    /// dense at both ends (Lee et al. 2024)
    Beta "beta" []
    /// a slow straight beginning, then a parabola (Mochi)
    LinearQuadratic "linear_quadratic" []
    /// evenly in the arc tangent of sigma
    KlOptimal "kl_optimal" ["KL Optimal"]
    /// Align Your Steps (Sabour et al. 2024)
    Ays "ays" ["Align Your Steps", "align_your_steps"]
}

impl Sampler {
    /// Whether steps bring fresh noise, so that the seed matters beyond the beginning.
    pub fn is_stochastic(self) -> bool {
        use Sampler::*;
        matches!(
            self,
            EulerAncestral
                | Dpm2Ancestral
                | Dpmpp2sAncestral
                | DpmppSde
                | Dpmpp2mSde
                | Dpmpp2mSdeHeun
                | Dpmpp3mSde
                | Lcm
        )
    }

    /// How often the network runs in a step (the last one excepted).
    pub fn evaluations(self) -> usize {
        use Sampler::*;
        match self {
            Heun | Dpm2 | Dpm2Ancestral | Dpmpp2sAncestral | DpmppSde => 2,
            _ => 1,
        }
    }

    pub(super) fn is_uni_pc(self) -> bool {
        matches!(self, Sampler::UniPc | Sampler::UniPcBh2)
    }

    /// What A1111 from 1.9 means by the schedule "Automatic".
    pub fn automatic(self) -> Schedule {
        use Sampler::*;
        match self {
            Dpm2 | Dpm2Ancestral | Dpmpp2sAncestral | Dpmpp2m | DpmppSde => Schedule::Karras,
            Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3mSde => Schedule::Exponential,
            _ => Schedule::Normal,
        }
    }
}

/// Reads what A1111 writes into pictures: `Sampler: DPM++ 2M` and, from version 1.9, `Schedule type: Karras`; before, the
/// sampler's label ends with the schedule ("DPM++ 2M Karras").
pub fn from_a1111(sampler: &str, schedule: Option<&str>) -> Result<(Sampler, Schedule), String> {
    let whole = Sampler::find(sampler);
    if let (None, None, Some((label, last))) = (whole, schedule, sampler.trim().rsplit_once(' ')) {
        // "SGM Uniform" and its like are two words.
        let two = label
            .rsplit_once(' ')
            .and_then(|(l, w)| Some((Sampler::find(l)?, Schedule::find(&format!("{w} {last}"))?)));
        let one = || Some((Sampler::find(label)?, Schedule::find(last)?));
        if let Some(found) = two.or_else(one) {
            return Ok(found);
        }
    }
    let sampler = whole.map_or_else(|| Sampler::parse(sampler), Ok)?;
    Ok(match schedule {
        None => (sampler, Schedule::Normal),
        Some(s) if s.eq_ignore_ascii_case("automatic") => (sampler, sampler.automatic()),
        Some(s) => (sampler, Schedule::parse(s)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_near_ones_are_named() {
        for s in Sampler::ALL {
            assert_eq!(Sampler::parse(s.name()), Ok(*s));
        }
        for s in Schedule::ALL {
            assert_eq!(Schedule::parse(s.name()), Ok(*s));
        }
        assert_eq!(Sampler::parse("DPM++ 2m SDE"), Ok(Sampler::Dpmpp2mSde));
        assert_eq!(Sampler::parse("Euler a"), Ok(Sampler::EulerAncestral));
        assert_eq!(Sampler::parse("dpmpp-2m"), Ok(Sampler::Dpmpp2m));
        assert_eq!(Sampler::parse("dpmpp_2").unwrap_err().split(';').next(), Some("dpmpp_2 is no sampler"));
        assert!(Sampler::parse("eulr").unwrap_err().ends_with("did you mean euler?"));
        assert!(Schedule::parse("kerras").unwrap_err().ends_with("did you mean karras?"));
        assert!(Schedule::parse("zzzzzzzz").unwrap_err().contains("there are normal, karras,"));
    }

    #[test]
    fn labels_of_pictures_are_read() {
        use Sampler::*;
        let cases = [
            ("DPM++ 2M Karras", None, Dpmpp2m, Schedule::Karras),
            ("DPM++ 2M SDE Heun Exponential", None, Dpmpp2mSdeHeun, Schedule::Exponential),
            ("DPM++ 2M SDE Heun", None, Dpmpp2mSdeHeun, Schedule::Normal),
            ("Euler a SGM Uniform", None, EulerAncestral, Schedule::SgmUniform),
            ("Euler a", None, EulerAncestral, Schedule::Normal),
            ("DPM++ 2M", Some("Automatic"), Dpmpp2m, Schedule::Karras),
            ("DPM++ 3M SDE", Some("Align Your Steps"), Dpmpp3mSde, Schedule::Ays),
            ("UniPC", Some("KL Optimal"), UniPcBh2, Schedule::KlOptimal),
        ];
        for (label, schedule, want, levels) in cases {
            assert_eq!(from_a1111(label, schedule), Ok((want, levels)), "{label}");
        }
        assert!(from_a1111("DPM adaptive", None).unwrap_err().starts_with("DPM adaptive is no sampler"));
    }
}
