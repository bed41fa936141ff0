//! Convolution of images as a product of the kernels `(O, C·k·k)` and the patches `(C·k·k, H'·W')`, of which only a
//! panel exists at a time; or, where it pays, by minimal filtering ([`winograd`]).

#[cfg(target_arch = "x86_64")]
mod tiles;
mod winograd;

use crate::exec::{Call, Cpu};
use crate::isa::isa;
use crate::ops::gemm::{Gemm, Left, Panel, WIDTH, Way, prefetch};
use hob_graph::{DType, Graph, Node, Shape, Window};
use std::ops::Range;
use winograd::Winograd;

/// Columns of a task at most that are filled in together.
const TASK: usize = Way::Plain.wide();
/// Rows that meet a patch while it is at hand, where there are so many.
const ROWS: usize = 640;

fn gemm(cpu: &Cpu, y: Shape, kernel: Shape, dtype: DType) -> Gemm {
    let [rows, depth, columns] = [y[1], kernel[1] * kernel[2] * kernel[3], y[2] * y[3]];
    let way = Way::of(isa(), cpu.precision, dtype, rows);
    let wide = match way {
        // Patches cost more than rows of kernels: rather fewer columns of them than the same ones for each part of the rows.
        Way::Plain => (way.sums() / rows.clamp(1, ROWS) / WIDTH * WIDTH).min(TASK),
        _ => way.wide(),
    };
    Gemm { rows, depth, columns, task: wide.min(columns.next_multiple_of(WIDTH)), way }
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node, window: Window) -> usize {
    if let Some(w) = Winograd::of(cpu, graph.node(node.inputs[0]).shape, node.shape, window) {
        return w.scratch(&cpu.pool);
    }
    // Planned as for kernels in f32, which take most.
    gemm(cpu, node.shape, graph.node(node.inputs[1]).shape, DType::F32).scratch(&cpu.pool)
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, window: Window) {
    let (x, kernel) = (c.x(0), c.x(1));
    let bias = (c.arity() == 3).then(|| c.x(2).f32s());
    let left = Left { dtype: kernel.dtype, bytes: kernel.bytes };
    if let Some(w) = Winograd::of(c.cpu, x.shape, c.node.shape, window) {
        return w.run(&c.cpu.pool, x.f32s(), left, bias, c.out, c.scratch);
    }
    let g = gemm(c.cpu, c.node.shape, kernel.shape, kernel.dtype);
    let image = x.shape[1] * x.shape[2] * x.shape[3];
    let patches =
        Patches { x: x.f32s(), image, size: [x.shape[2], x.shape[3]], columns: c.node.shape[3], window };
    let finish = |row: usize, _, y: &mut [f32]| {
        if let Some(bias) = bias {
            y.iter_mut().for_each(|y| *y += bias[row]);
        }
    };
    let fill = |batch: usize, rows: Range<usize>, columns: Range<usize>, panel: Panel| {
        let columns = columns.start..columns.end.min(g.columns);
        match panel {
            #[cfg(target_arch = "x86_64")]
            Panel::Parts(parts, panel) if patches.window.stride == 1 => {
                tiles::fill(&patches, batch, rows, columns, parts, panel)
            }
            panel => panel.plainly(rows.len(), |panel| patches.fill(batch, rows.clone(), columns, panel)),
        }
    };
    g.run(&c.cpu.pool, x.shape[0], c.out, c.scratch, |_| left, fill, finish);
}

/// The patches of images `(N, C, H, W)`.
struct Patches<'a> {
    x: &'a [f32],
    /// numbers of one image
    image: usize,
    /// H, W
    size: [usize; 2],
    /// W'
    columns: usize,
    window: Window,
}

/// Positions of the window side by side in one line of the result and one strip of a panel.
#[derive(Clone, Copy, Default)]
struct Run {
    /// of the padded image: the line and the column under the corner of the first window
    corner: [usize; 2],
    strip: usize,
    /// within the strip
    at: usize,
    len: usize,
}

impl Patches<'_> {
    /// Writes rows (places within a patch) of some columns (positions of the window) into a panel.
    fn fill(&self, image: usize, rows: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
        if self.window == (Window { kernel: 1, stride: 1, padding: 0 }) {
            return self.fill_points(image, rows, columns, panel);
        }
        let (mut runs, mut count) = ([Run::default(); TASK], 0);
        let stride = self.window.stride as usize;
        let mut at = columns.start;
        while at < columns.end {
            let (line, column, place) = (at / self.columns, at % self.columns, at - columns.start);
            let len = (self.columns - column).min(columns.end - at).min(WIDTH - place % WIDTH);
            let corner = [line * stride, column * stride];
            runs[count] = Run { corner, strip: place / WIDTH, at: place % WIDTH, len };
            (at, count) = (at + len, count + 1);
        }
        let (k, deep) = (self.window.kernel as usize, rows.len());
        let plane = self.size[0] * self.size[1];
        let panel = panel.as_chunks_mut::<WIDTH>().0;
        for (i, row) in rows.enumerate() {
            let (channel, dy, dx) = (row / (k * k), row / k % k, row % k);
            let x = &self.x[image * self.image + channel * plane..][..plane];
            for run in &runs[..count] {
                let strip = &mut panel[run.strip * deep + i];
                self.run(self.line(x, run.corner[0] + dy), run.corner[1] + dx, run, strip);
            }
        }
    }

    /// The same where a patch is a single place: a row is part of a channel as it lies.
    fn fill_points(&self, image: usize, rows: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
        let (plane, deep) = (self.size[0] * self.size[1], rows.len());
        let panel = panel.as_chunks_mut::<WIDTH>().0;
        for (i, row) in rows.enumerate() {
            let at = image * self.image + row * plane + columns.start;
            // The channels after the next are asked for: they lie far apart.
            prefetch(self.x, at + 2 * plane, columns.len());
            let (whole, rest) = self.x[at..][..columns.len()].as_chunks::<WIDTH>();
            for (strip, x) in whole.iter().enumerate() {
                panel[strip * deep + i] = *x;
            }
            if !rest.is_empty() {
                panel[whole.len() * deep + i][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// A line of the padded image; empty in the padding.
    fn line<'x>(&self, x: &'x [f32], line: usize) -> &'x [f32] {
        let [height, width] = self.size;
        match line.checked_sub(self.window.padding as usize) {
            Some(line) if line < height => &x[line * width..][..width],
            _ => &[],
        }
    }

    /// What the windows of a run have of a line, from column `at` of the padded image on; zeros in the padding.
    #[inline(always)]
    fn run(&self, line: &[f32], at: usize, run: &Run, strip: &mut [f32; WIDTH]) {
        let (stride, padding) = (self.window.stride as usize, self.window.padding as usize);
        if let Some(whole) = at.checked_sub(padding).and_then(|at| line.get(at..at + WIDTH))
            && stride == 1
            && run.len == WIDTH
        {
            *strip = *whole.as_array().expect("so many are taken");
            return;
        }
        let y = &mut strip[run.at..][..run.len];
        // Those that lie within the line.
        let first = padding.saturating_sub(at).div_ceil(stride).min(y.len());
        let last = (line.len() + padding).saturating_sub(at).div_ceil(stride).clamp(first, y.len());
        y[..first].fill(0.0);
        y[last..].fill(0.0);
        let y = &mut y[first..last];
        if y.is_empty() {
            return;
        }
        let x = &line[at + first * stride - padding..];
        match stride {
            1 => y.copy_from_slice(&x[..y.len()]),
            2 => {
                // In pairs, as vectors take them.
                let (pairs, rest) = x.as_chunks::<2>();
                y.iter_mut().zip(pairs).for_each(|(y, pair)| *y = pair[0]);
                if pairs.len() < y.len() {
                    y[pairs.len()] = rest[0];
                }
            }
            _ => y.iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, x)| *y = *x),
        }
    }
}
