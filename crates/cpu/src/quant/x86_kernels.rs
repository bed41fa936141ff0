//! The kernels that AVX2 and AVX-512 write alike but for the multiplication, as a macro that each writes out.
//!
//! Functions here are unsafe as those of [`super::x86`] are.
#![allow(unsafe_op_in_unsafe_fn)]

pub(super) use super::x86::*;
use std::arch::x86_64::*;

/// Sums of a row and a token that do not wait for each other.
pub(super) const SUMS: usize = 2;
pub(super) type Sums = [__m256; SUMS];

/// The sum of all lanes.
#[inline(always)]
pub(super) unsafe fn sum(acc: &Sums) -> f32 {
    let x = _mm256_add_ps(acc[0], acc[1]);
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// Scales `2J` and `2J + 1` of sixteen, each four times: what the products of group `J` are scaled by.
#[inline(always)]
pub(super) unsafe fn of_halves<const J: usize>(d: [__m256; 2]) -> __m256 {
    let at = (J % 4 * 2) as i32;
    let (a, b) = (_mm256_set1_epi32(at), _mm256_set1_epi32(at + 1));
    _mm256_permutevar8x32_ps(d[J / 4], _mm256_blend_epi32::<0xf0>(a, b))
}

/// Rows and columns of 8 × 8 numbers of 32 bits exchanged.
#[inline(always)]
pub(super) unsafe fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = v;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    let mut out = v;
    for i in 0..2 {
        let low = |from: usize| _mm256_unpacklo_epi64(pairs[from + i], pairs[from + 2 + i]);
        let high = |from: usize| _mm256_unpackhi_epi64(pairs[from + i], pairs[from + 2 + i]);
        let (a, b, c, d) = (low(0), low(4), high(0), high(4));
        out[2 * i] = _mm256_permute2x128_si256::<0x20>(a, b);
        out[2 * i + 1] = _mm256_permute2x128_si256::<0x20>(c, d);
        out[2 * i + 4] = _mm256_permute2x128_si256::<0x31>(a, b);
        out[2 * i + 5] = _mm256_permute2x128_si256::<0x31>(c, d);
    }
    out
}

/// Runs a macro for each of the eight groups of a chunk, whose number is a constant.
macro_rules! for_groups {
    ($body:ident) => {
        $body!(0);
        $body!(1);
        $body!(2);
        $body!(3);
        $body!(4);
        $body!(5);
        $body!(6);
        $body!(7);
    };
}
pub(super) use for_groups;

/// Writes `rows` and `unpack` (see [`super::Kernels`]) for an instruction set that has `dot::<F>(u, x)`: eight sums of
/// four products. `$signed` tells that it takes 128 from formats of 8 bits.
macro_rules! rows_and_unpack {
    ($features:literal, $signed:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn rows<F: Unpack>(w: &[u8], x: &Acts, out: Out) {
            assert!(x.tile == 1 && x.tokens <= MAX_FEW);
            assert!(x.q.len() >= x.tokens * x.groups * 32);
            assert!(x.d.len().min(x.sums.len()).min(x.half_sums.len() / 2) >= x.tokens * x.groups);
            let rows = blocks::<F>(w).chunks_exact(x.groups / F::GROUPS);
            for (n, row) in rows.enumerate() {
                if x.tokens == 1 {
                    let mut acc = [[_mm256_setzero_ps(); SUMS]; 1];
                    row_times::<F, 1>(row, x, &mut acc);
                    // SAFETY: the caller made room for every row.
                    unsafe { *out.at.add(n) = sum(&acc[0]) };
                } else {
                    let mut acc = [[_mm256_setzero_ps(); SUMS]; MAX_FEW];
                    row_times::<F, MAX_FEW>(row, x, &mut acc);
                    for (t, acc) in acc.iter().enumerate().take(x.tokens) {
                        // SAFETY: the caller made room for every row and token.
                        unsafe { *out.at.add(t * out.stride + n) = sum(acc) };
                    }
                }
            }
        }

        /// A row times up to `T` tokens: each chunk is unpacked once.
        #[inline]
        #[target_feature(enable = $features)]
        fn row_times<F: Unpack, const T: usize>(row: &[F::Block], x: &Acts, acc: &mut [Sums; T]) {
            let chunks = row.chunks_exact(F::CHUNK);
            let rest = chunks.remainder();
            for (i, chunk) in chunks.enumerate() {
                chunk_times::<F, T>(chunk, x, 8 * i, acc);
            }
            // Blocks of one group each, past the last whole chunk.
            let tokens = if T == 1 { 1 } else { x.tokens };
            for (j, b) in rest.iter().enumerate() {
                let (b, first) = (std::slice::from_ref(b), x.groups - rest.len() + j);
                // SAFETY: compiled for what is called; the activations have `tokens · groups` groups, as `rows` asserts.
                unsafe {
                    let s = scales::<F, $signed>(b);
                    let u = F::group::<0>(b);
                    for t in 0..tokens {
                        let at = t * x.groups + first;
                        let p = dot::<F>(u, _mm256_loadu_si256(x.q.as_ptr().add(at * 32).cast()));
                        let p = _mm256_mul_ps(_mm256_cvtepi32_ps(p), _mm256_set1_ps(*x.d.as_ptr().add(at)));
                        acc[t][0] = _mm256_fmadd_ps(p, s.d[0], acc[t][0]);
                        let once = _mm256_zextps128_ps256(_mm_load_ss(x.sums.as_ptr().add(at)));
                        acc[t][1] = _mm256_fmadd_ps(s.m[0], once, acc[t][1]);
                    }
                }
            }
        }

        /// A chunk times up to `T` tokens, from group `first` on. On Zen 4 vectors of 512 bits, more sums, or two rows
        /// at a time are no faster: what counts is the number of operations on 256 bits, shuffles above all.
        #[inline]
        #[target_feature(enable = $features)]
        fn chunk_times<F: Unpack, const T: usize>(
            chunk: &[F::Block],
            x: &Acts,
            first: usize,
            acc: &mut [Sums; T],
        ) {
            prefetch(chunk, 4096);
            let tokens = if T == 1 { 1 } else { x.tokens };
            assert!(first + 8 <= x.groups);
            // SAFETY: compiled for what is called; the activations have `tokens · groups` groups, as `rows` asserts,
            // of which eight are read from one of the token's on.
            unsafe {
                let s = scales::<F, $signed>(chunk);
                let mut u = [_mm256_setzero_si256(); 8];
                let mut halves = [_mm256_setzero_ps(); 8];
                macro_rules! group {
                    ($j:literal) => {
                        u[$j] = F::group::<$j>(chunk);
                        if F::SPLIT {
                            halves[$j] = of_halves::<$j>(s.d);
                        }
                    };
                }
                for_groups!(group);
                // By way of memory, from where a scale is broadcast as it is loaded.
                let mut whole = [[0f32; 8]; T];
                if !F::SPLIT {
                    for t in 0..tokens {
                        let d = _mm256_loadu_ps(x.d.as_ptr().add(t * x.groups + first));
                        whole[t] = to_array(_mm256_mul_ps(s.d[0], d));
                    }
                }
                for t in 0..tokens {
                    let acc = &mut acc[t];
                    let at = t * x.groups + first;
                    let (q, d) = (x.q.as_ptr().add(at * 32), x.d.as_ptr().add(at));
                    if F::SPLIT && F::addends::<$signed>() {
                        let sums = x.half_sums.as_ptr().add(2 * at);
                        acc[0] = _mm256_fmadd_ps(s.m[0], _mm256_loadu_ps(sums), acc[0]);
                        acc[1] = _mm256_fmadd_ps(s.m[1], _mm256_loadu_ps(sums.add(8)), acc[1]);
                    } else if F::addends::<$signed>() {
                        acc[0] = _mm256_fmadd_ps(s.m[0], _mm256_loadu_ps(x.sums.as_ptr().add(at)), acc[0]);
                    }
                    for j in 0..8 {
                        let p = dot::<F>(u[j], _mm256_loadu_si256(q.add(32 * j).cast()));
                        let p = _mm256_cvtepi32_ps(p);
                        if F::SPLIT {
                            let p = _mm256_mul_ps(p, _mm256_set1_ps(*d.add(j)));
                            acc[j % SUMS] = _mm256_fmadd_ps(p, halves[j], acc[j % SUMS]);
                        } else {
                            acc[j % SUMS] = _mm256_fmadd_ps(p, _mm256_set1_ps(whole[t][j]), acc[j % SUMS]);
                        }
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn unpack<F: Unpack>(
            w: &[u8],
            row_bytes: usize,
            first: usize,
            groups: usize,
            panel: &mut Panel,
        ) {
            let last = w.len() / row_bytes - 1;
            let per_group = if F::SPLIT { 2 } else { 1 };
            assert!(panel.q.len() >= groups * 32 * ROWS);
            assert!(panel.d.len().min(panel.m.len()) >= groups * per_group * ROWS);
            let (q, d, m) = (panel.q.as_mut_ptr(), panel.d.as_mut_ptr(), panel.m.as_mut_ptr());
            for g in (0..groups).step_by(8) {
                for r in (0..ROWS).step_by(8) {
                    let n = (groups - g).min(8);
                    let blocks_of = (first + g) / F::GROUPS..(first + g + n) / F::GROUPS;
                    let mut chunks: [&[F::Block]; 8] = [&[]; 8];
                    for i in 0..8 {
                        let row = blocks::<F>(&w[(r + i).min(last) * row_bytes..][..row_bytes]);
                        chunks[i] = &row[blocks_of.clone()];
                        // Two chunks ahead, at a row's end in the panel that comes next.
                        let skip = if g + 16 < groups { 0 } else { (ROWS - 1) * row_bytes };
                        prefetch(chunks[i], 2 * size_of_val(chunks[i]) + skip);
                    }
                    // SAFETY: compiled for what is called; the panel has room for all groups of all rows, as asserted.
                    unsafe {
                        macro_rules! group {
                            ($j:literal) => {
                                if $j < n {
                                    unpack_group::<F, $j>(&chunks, q.add((g + $j) * 32 * ROWS + r * 4));
                                }
                            };
                        }
                        for_groups!(group);
                        let mut ds = [[_mm256_setzero_si256(); 8]; 2];
                        let mut ms = ds;
                        for i in 0..8 {
                            let s = scales::<F, $signed>(chunks[i]);
                            for h in 0..per_group {
                                ds[h][i] = _mm256_castps_si256(s.d[h]);
                                ms[h][i] = _mm256_castps_si256(s.m[h]);
                            }
                        }
                        for h in 0..per_group {
                            let (ds, ms) = (transpose(ds[h]), transpose(ms[h]));
                            for k in 0..(n * per_group).min(8) {
                                let at = (g * per_group + h * 8 + k) * ROWS + r;
                                _mm256_storeu_si256(d.add(at).cast(), ds[k]);
                                _mm256_storeu_si256(m.add(at).cast(), ms[k]);
                            }
                        }
                    }
                }
            }
        }

        /// Group `J` of eight rows, to every `4 · ROWS` bytes from `to` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn unpack_group<F: Unpack, const J: usize>(chunks: &[&[F::Block]; 8], to: *mut u8) {
            let flip = _mm256_set1_epi8(if $signed && F::BITS == 8 { -128 } else { 0 });
            let mut u = [_mm256_setzero_si256(); 8];
            // SAFETY: compiled for what is called; the caller has room for eight rows.
            unsafe {
                for i in 0..8 {
                    u[i] = _mm256_xor_si256(F::group::<J>(chunks[i]), flip);
                }
                for (k, u) in transpose(u).iter().enumerate() {
                    _mm256_storeu_si256(to.add(k * 4 * ROWS).cast(), *u);
                }
            }
        }
    };
}
pub(super) use rows_and_unpack;

/// Asks for what lies `ahead` bytes past a chunk.
#[inline(always)]
pub(super) fn prefetch<T>(chunk: &[T], ahead: usize) {
    let at = chunk.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(chunk).div_ceil(64) {
        // SAFETY: prefetching reads nothing, so any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * 64)) };
    }
}
