//! Convolution of images as a product of the kernels `(O, C·k·k)` and the patches `(C·k·k, H'·W')`, of which only a
//! panel exists at a time.

use crate::exec::{Call, Cpu};
use crate::ops::gemm::{Gemm, WIDTH};
use hob_graph::{Graph, Node, Shape, Window};
use std::ops::Range;

fn gemm(y: Shape, kernel: Shape) -> Gemm {
    let [rows, depth, columns] = [y[1], kernel[1] * kernel[2] * kernel[3], y[2] * y[3]];
    Gemm { rows, depth, columns, task: (8 * WIDTH).min(columns.next_multiple_of(WIDTH)) }
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    gemm(node.shape, graph.node(node.inputs[1]).shape).scratch(&cpu.pool)
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, window: Window) {
    let (x, kernel) = (c.x(0), c.x(1));
    let bias = (c.arity() == 3).then(|| c.x(2).f32s());
    let g = gemm(c.node.shape, kernel.shape);
    let image = x.shape[1] * x.shape[2] * x.shape[3];
    let patches =
        Patches { x: x.f32s(), image, size: [x.shape[2], x.shape[3]], columns: c.node.shape[3], window };
    let finish = |row: usize, y: &mut [f32]| {
        if let Some(bias) = bias {
            y.iter_mut().for_each(|y| *y += bias[row]);
        }
    };
    let fill = |batch: usize, rows: Range<usize>, columns: Range<usize>, panel: &mut [f32]| {
        patches.fill(batch, rows, columns.start..columns.end.min(g.columns), panel);
    };
    g.run(&c.cpu.pool, x.shape[0], c.out, c.scratch, |_| kernel.f32s(), fill, finish);
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

impl Patches<'_> {
    /// Writes rows (places within a patch) of some columns (positions of the window) into a panel.
    fn fill(&self, image: usize, rows: Range<usize>, columns: Range<usize>, panel: &mut [f32]) {
        let (k, deep) = (self.window.kernel as usize, rows.len());
        let plane = self.size[0] * self.size[1];
        for (i, row) in rows.enumerate() {
            let x = &self.x[image * self.image + row / (k * k) * plane..][..plane];
            // Positions of one line of the result at a time, of which a run lies within the image.
            let mut at = columns.start;
            while at < columns.end {
                let (line, from) = (at / self.columns, at % self.columns);
                let to = (from + columns.end - at).min(self.columns);
                let line = self.line(x, line, row / k % k);
                let mut column = from;
                while column < to {
                    // Up to the end of a strip.
                    let place = at - columns.start + column - from;
                    let n = (WIDTH - place % WIDTH).min(to - column);
                    let y = &mut panel[(place / WIDTH * deep + i) * WIDTH + place % WIDTH..][..n];
                    self.run(line, column, row % k, y);
                    column += n;
                }
                at += to - from;
            }
        }
    }

    /// The line of x under line `dy` of windows in line `step`; empty in the padding.
    fn line<'x>(&self, x: &'x [f32], step: usize, dy: usize) -> &'x [f32] {
        let [height, width] = self.size;
        let line = (step * self.window.stride as usize + dy).checked_sub(self.window.padding as usize);
        match line {
            Some(line) if line < height => &x[line * width..][..width],
            _ => &[],
        }
    }

    /// What windows at `column` and after have at `dx`, zeros in the padding.
    fn run(&self, line: &[f32], column: usize, dx: usize, y: &mut [f32]) {
        let (stride, padding) = (self.window.stride as usize, self.window.padding as usize);
        let at = column * stride + dx; // in the padded line
        if stride == 1 && at >= padding && at - padding + y.len() <= line.len() {
            return y.copy_from_slice(&line[at - padding..][..y.len()]);
        }
        for (i, y) in y.iter_mut().enumerate() {
            let x = (at + i * stride).checked_sub(padding).and_then(|at| line.get(at));
            *y = x.copied().unwrap_or(0.0);
        }
    }
}
