//! Patches as right operands of tiles: see [`crate::amx`].
#![allow(unsafe_op_in_unsafe_fn)]

use super::Patches;
use crate::amx::{SIDE, block, store_pairs};
use crate::ops::gemm::{DEPTH, parts::with_parts};
use std::arch::x86_64::*;
use std::ops::Range;

/// Columns of a vector.
const LANES: usize = 16;

/// Columns side by side in one line of the result, all in one vector.
#[derive(Clone, Copy, Default)]
struct Run {
    /// where the first lane's number would lie in a plane without padding, if the run began there
    at: isize,
    line: usize,
    /// of the first of them
    column: usize,
    lane: usize,
    len: usize,
}

/// Writes rows (places within a patch) of up to [`SIDE`] columns (positions of a window that moves by one).
pub(super) fn fill(
    p: &Patches,
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    parts: usize,
    panel: &mut [f32],
) {
    let steps = rows.len().div_ceil(SIDE);
    assert!(columns.len() <= SIDE && rows.len() <= DEPTH);
    with_parts!(parts, PARTS => {
        assert!(size_of_val(panel) >= steps * block::<PARTS>());
        // SAFETY: the processor has AMX and so AVX-512, and the panel is as large as asserted.
        unsafe { fill_512::<PARTS>(p, image, rows, columns, panel.as_mut_ptr().cast()) };
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn fill_512<const PARTS: usize>(
    p: &Patches,
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    panel: *mut u8,
) {
    let ([height, width], k) = (p.size, p.window.kernel as usize);
    let (padding, plane) = (p.window.padding as usize, height * width);
    let x = &p.x[image * p.image..][..p.image];
    // Where a row's numbers lie beside those of the window's corner without padding, and its tap.
    let mut places = [(0isize, 0usize); DEPTH];
    let (mut channel, mut tap) = (rows.start / (k * k), rows.start % (k * k));
    for place in &mut places[..rows.len()] {
        let (dy, dx) = (tap / k, tap % k);
        let (dy, dx) = (dy as isize - padding as isize, dx as isize - padding as isize);
        *place = ((channel * plane) as isize + dy * width as isize + dx, tap);
        tap += 1;
        if tap == k * k {
            (channel, tap) = (channel + 1, 0);
        }
    }
    for half in 0..2 {
        let first = columns.start + half * LANES;
        let (mut runs, mut count) = ([Run::default(); LANES], 0);
        let mut at = first;
        while at < columns.end.min(first + LANES) {
            let (line, column, lane) = (at / p.columns, at % p.columns, at - first);
            let len = (p.columns - column).min(columns.end - at).min(LANES - lane);
            let place = (line * width + column) as isize - lane as isize;
            runs[count] = Run { at: place, line, column, lane, len };
            (at, count) = (at + len, count + 1);
        }
        let runs = &runs[..count];
        let to = panel.add(half * block::<1>() / 2);
        // Lanes of a run that lie within the image, for a tap.
        let within = |run: &Run, tap: usize| -> u16 {
            let (dy, dx) = (tap / k, tap % k);
            let line = (run.line + dy).checked_sub(padding).filter(|line| *line < height);
            let from = padding.saturating_sub(run.column + dx).min(run.len);
            let to = (width + padding).saturating_sub(run.column + dx).min(run.len);
            match line {
                Some(_) if from < to => (((1u32 << to) - (1u32 << from)) << run.lane) as u16,
                _ => 0,
            }
        };
        match runs {
            [run] if k <= 3 => {
                let mut masks = [0u16; 9];
                masks[..k * k].iter_mut().enumerate().for_each(|(tap, mask)| *mask = within(run, tap));
                let base = x.as_ptr().wrapping_offset(run.at);
                write::<PARTS>(&places[..rows.len()], to, |(at, tap)| {
                    // SAFETY: lanes outside the image are not read.
                    unsafe { _mm512_maskz_loadu_ps(masks[tap], base.wrapping_offset(at)) }
                });
            }
            [a, b] if k <= 3 => {
                let mut masks = [[0u16; 2]; 9];
                let both = |tap| [within(a, tap), within(b, tap)];
                masks[..k * k].iter_mut().enumerate().for_each(|(tap, mask)| *mask = both(tap));
                let bases = [a, b].map(|run| x.as_ptr().wrapping_offset(run.at));
                write::<PARTS>(&places[..rows.len()], to, |(at, tap)| {
                    // SAFETY: likewise.
                    unsafe {
                        let y = _mm512_maskz_loadu_ps(masks[tap][0], bases[0].wrapping_offset(at));
                        _mm512_mask_loadu_ps(y, masks[tap][1], bases[1].wrapping_offset(at))
                    }
                });
            }
            _ => write::<PARTS>(&places[..rows.len()], to, |(at, tap)| {
                runs.iter().fold(_mm512_setzero_ps(), |y, run| {
                    let base = x.as_ptr().wrapping_offset(run.at + at);
                    // SAFETY: likewise.
                    unsafe { _mm512_mask_loadu_ps(y, within(run, tap), base) }
                })
            }),
        }
    }
}

/// Writes half of a right operand's lines, of which `load` gives rows; zeros beyond them.
///
/// # Safety
/// The processor has AVX-512 F and BW; the blocks are there.
#[inline(always)]
unsafe fn write<const PARTS: usize>(
    places: &[(isize, usize)],
    to: *mut u8,
    load: impl Fn((isize, usize)) -> __m512,
) {
    for (step, places) in places.chunks(SIDE).enumerate() {
        let to = to.add(step * block::<PARTS>());
        for pair in 0..LANES {
            let one = |i: usize| places.get(i).map_or(_mm512_setzero_ps(), |place| load(*place));
            store_pairs::<PARTS, f32>([one(pair), one(pair + LANES)], to.add(pair * 64));
        }
    }
}
