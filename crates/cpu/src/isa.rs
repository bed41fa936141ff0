//! What the processor can do, found once, and the way kernels are compiled for it.

use std::sync::OnceLock;

/// An instruction set kernels are compiled for. Of those of an architecture a later one is the faster, and includes what is
/// common to those before it: on x86 `isa() >= Isa::Avx2` asks whether AVX2 may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// what every processor of the target has
    Portable,
    /// x86-64 with AVX2, FMA and F16C
    Avx2,
    /// the above with VNNI for vectors of 256 bits, as many processors have it that lack AVX-512
    AvxVnni,
    /// AVX2 with AVX-512 F, BW, DQ, VL and VNNI
    Avx512,
    /// the above with AMX for bf16, see [`crate::amx`]
    Amx,
    /// 64-bit Arm, with kernels written for its vectors
    Neon,
    /// the above with dot products of bytes
    Dotprod,
    /// the above with products of matrices of bytes
    I8mm,
}

/// The environment's variable that holds kernels to an instruction set: to compare sets, and to test the lesser ones.
pub const LIMIT: &str = "HOB_ISA";

impl Isa {
    /// All of this architecture, the lesser ones first.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Amx];
    /// All of this architecture, the lesser ones first.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Dotprod, Isa::I8mm];
    /// All of this architecture, the lesser ones first.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: [Isa; 1] = [Isa::Portable];

    /// The name that [`LIMIT`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }
}

/// The best instruction set of this processor, of those up to the one that [`LIMIT`] names.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        let limit = limit().ok().flatten();
        let fits = |isa: &Isa| isa.available() && limit.is_none_or(|limit| *isa <= limit);
        Isa::ALL.into_iter().rev().find(fits).unwrap_or(Isa::Portable)
    })
}

/// The same, but for tiles.
pub fn vectors() -> Isa {
    if isa() == Isa::Amx { Isa::Avx512 } else { isa() }
}

/// Whether the processor is AMD's.
#[cfg(target_arch = "x86_64")]
pub fn amd() -> bool {
    static AMD: OnceLock<bool> = OnceLock::new();
    *AMD.get_or_init(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

/// The instruction set that [`LIMIT`] names, `None` where it is not set. The error is a name that is no set's.
pub fn limit() -> Result<Option<Isa>, String> {
    let Some(name) = std::env::var_os(LIMIT).filter(|n| !n.is_empty()) else { return Ok(None) };
    let name = name.to_string_lossy().into_owned();
    Isa::ALL.into_iter().find(|isa| isa.name() == name).map(Some).ok_or(name)
}

impl Isa {
    /// Whether this processor has it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        match self {
            Isa::Portable => true,
            Isa::Avx2 => avx2(),
            Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Amx => Isa::Avx512.available() && crate::amx::available(),
            _ => false,
        }
    }

    /// Whether this processor has it.
    #[cfg(target_arch = "aarch64")]
    pub fn available(self) -> bool {
        use std::arch::is_aarch64_feature_detected;
        match self {
            Isa::Portable | Isa::Neon => true,
            Isa::Dotprod => is_aarch64_feature_detected!("dotprod"),
            Isa::I8mm => is_aarch64_feature_detected!("dotprod") && is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// Whether this processor has it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn available(self) -> bool {
        self == Isa::Portable
    }
}

/// `a · b + c`, in one instruction where `FMA` says that the code is compiled for it: elsewhere `mul_add` would be a
/// call into the C library.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Writes a function whose body is compiled portably and for AVX2, and chosen at run time; on 64-bit Arm it is compiled
/// once, as all have NEON and FMA. Within the body `FMA` is a constant for [`fma`]. Loops over slices are left to the
/// compiler's vectoriser.
#[macro_export]
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters)]
            fn body<const FMA: bool>($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    body::<true>($($arg),*)
                }
                if $crate::isa::isa() >= $crate::isa::Isa::Avx2 {
                    // SAFETY: the processor has what the function is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub use for_each_isa;

/// Compiles a function for AVX-512 too, beside what [`for_each_isa`](crate::isa::for_each_isa) does.
macro_rules! for_each_width {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            if crate::isa::isa() >= crate::isa::Isa::Avx512 {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn widest($($arg: $type),*) $(-> $out)? $body
                // SAFETY: the processor has what the function is compiled for.
                return unsafe { widest($($arg),*) };
            }
            crate::isa::for_each_isa! {
                fn others($($arg: $type),*) $(-> $out)? $body
            }
            others($($arg),*)
        }
    };
}
pub(crate) use for_each_width;

#[cfg(test)]
mod tests {
    use super::*;

    for_each_isa! {
        fn dot(a: &[f32], b: &[f32]) -> f32 {
            a.iter().zip(b).fold(0.0, |s, (a, b)| fma::<FMA>(*a, *b, s))
        }
    }

    #[test]
    fn sets_are_ordered_and_a_function_finds_its_own() {
        assert!(Isa::ALL.is_sorted() && Isa::ALL.contains(&isa()) && isa().available());
        assert_eq!(isa(), isa());
        assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
    }
}
