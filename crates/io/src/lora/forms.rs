//! The forms an update is stored in, brought into `scale · B · A`: LoRA with or without a core for the kernel (kohya, LyCORIS'
//! `locon.py`), LoHa (Hyeon-Woo et al. 2022, `loha.py`), LoKr (Yeh et al. 2024, `lokr.py`) and whole differences.

use super::{Factor, Magnitude, Update};
use crate::{Safetensors, Tensor};
use std::collections::BTreeMap;

/// What a file has for one module.
#[derive(Default)]
pub(super) struct Form {
    tensors: BTreeMap<&'static str, Tensor>,
    alpha: Option<f32>,
    /// what stands for alpha / rank, where something beside the weights says so
    pub scale: Option<f32>,
    /// its lengths are LyCORIS', not peft's
    lycoris: bool,
}

/// A, and B where A is not all.
type Factors = (Matrix, Option<Matrix>);

/// Numbers in rows.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Form {
    /// Takes one of its tensors.
    pub fn put(&mut self, slot: &'static str, tensor: &Tensor, file: &Safetensors) {
        if slot == "alpha" && tensor.elements() == 1 {
            let mut alpha = [0.0];
            tensor.dtype.decode(file.bytes(tensor), &mut alpha);
            self.alpha = Some(alpha[0]);
        } else {
            self.lycoris |= tensor.stored_name.ends_with(".dora_scale");
            self.tensors.insert(slot, tensor.clone());
        }
    }

    /// The inner dimension that alpha is divided by.
    pub fn rank(&self) -> Option<usize> {
        let of = |slot| self.tensors.get(slot).and_then(|t: &Tensor| t.shape.first().copied());
        ["down", "w1_b", "k2_b", "k1_b"].into_iter().find_map(of)
    }

    /// What is added to the weights of `dims`, which the file has as one. The error goes on after "its update of MODULE".
    pub fn update(&self, file: &Safetensors, dims: &[&[usize]]) -> Result<Update, String> {
        let (out, inner) = (dims.iter().map(|d| d[0]).sum::<usize>(), &dims[0][1..]);
        if dims.iter().any(|d| d[1..] != *inner) {
            return Err("is of layers whose inputs differ".into());
        }
        let scale = match (self.scale, self.alpha, self.rank()) {
            (Some(scale), ..) => scale,
            (None, Some(alpha), Some(rank)) => alpha / rank.max(1) as f32,
            _ => 1.0,
        };
        if !scale.is_finite() {
            return Err(format!("is scaled by {scale}"));
        }
        let layer = Layer { out, columns: inner.iter().product() };
        let has = |slot| self.tensors.contains_key(slot);
        let (a, b) = match () {
            _ if has("diff") => return self.whole(file, &layer, inner),
            _ if has("w1_a") || has("w2_a") => self.loha(file, &layer)?,
            _ if self.tensors.keys().any(|slot| slot.starts_with('k')) => self.lokr(file, &layer)?,
            _ if has("mid") => self.cored(file, &layer)?,
            _ => return self.plain(file, &layer, inner, scale),
        };
        let shape = |rows| [&[rows], inner].concat();
        let b = b.map(|b| Factor::from_f32(vec![b.rows, b.columns], &b.values));
        Ok(added(Factor::from_f32(shape(a.rows), &a.values), b, scale))
    }

    /// The lengths of a DoRA, where it is one: those of rows where there are as many, else those of inputs.
    pub fn magnitude(&self, file: &Safetensors, dims: &[&[usize]]) -> Result<Option<Magnitude>, String> {
        let Some(tensor) = self.tensors.get("magnitude") else { return Ok(None) };
        let (out, inputs) = (dims.iter().map(|d| d[0]).sum::<usize>(), dims[0].get(1).copied());
        let count = tensor.elements();
        // A kernel of peft's has them in the second dimension, which LyCORIS has for inputs.
        let second = tensor.shape.first() == Some(&1) && tensor.shape.get(1) == Some(&count) && count > 1;
        let rows = count == out && (!second || inputs != Some(count) || !self.lycoris);
        if !rows && (Some(count) != inputs || dims.len() > 1) {
            return Err(format!(
                "has the lengths of {count} parts, which are neither its rows nor its inputs"
            ));
        }
        let values = Factor::new(tensor.dtype, vec![count], file.bytes(tensor).to_vec());
        if values.values().iter().any(|x| !x.is_finite()) {
            return Err("has lengths that are no numbers".into());
        }
        Ok(Some(Magnitude { values, rows, strength: 1.0 }))
    }

    /// `B · A` as stored.
    fn plain(
        &self,
        file: &Safetensors,
        layer: &Layer,
        inner: &[usize],
        scale: f32,
    ) -> Result<Update, String> {
        let (down, up) = (self.tensor("down")?, self.tensor("up")?);
        let rank = down.shape.first().copied().unwrap_or(0);
        let rows = up.shape.first().copied().unwrap_or(0);
        layer.check(rows, down.elements().checked_div(rank).unwrap_or(0))?;
        if up.elements() != rows * rank {
            return Err(UNFIT.into());
        }
        let stored = |t: &Tensor, dims| Factor::new(t.dtype, dims, file.bytes(t).to_vec());
        Ok(added(stored(down, [&[rank], inner].concat()), Some(stored(up, vec![rows, rank])), scale))
    }

    /// A whole difference.
    fn whole(&self, file: &Safetensors, layer: &Layer, inner: &[usize]) -> Result<Update, String> {
        let diff = self.tensor("diff")?;
        let rows = diff.shape.first().copied().unwrap_or(0);
        layer.check(rows, diff.elements().checked_div(rows).unwrap_or(0))?;
        let dims = [&[rows], inner].concat();
        Ok(added(Factor::new(diff.dtype, dims, file.bytes(diff).to_vec()), None, 1.0))
    }

    /// `A, B` where a core with the kernel stands between them.
    fn cored(&self, file: &Safetensors, layer: &Layer) -> Result<Factors, String> {
        let (core, down, up) =
            (self.core(file, "mid")?, self.matrix(file, "down")?, self.matrix(file, "up")?);
        layer.check(up.rows, down.columns * core.kernel)?;
        if up.columns != core.matrix.rows || up.columns > layer.out.max(layer.columns) {
            return Err(UNFIT.into());
        }
        Ok((core.fold(&down)?, Some(up)))
    }

    /// `(w1_a · w1_b) ∘ (w2_a · w2_b)`. Where their ranks are small, each column of one product goes with each of the other.
    fn loha(&self, file: &Safetensors, layer: &Layer) -> Result<Factors, String> {
        let half = |a, b, core| {
            let (mut left, mut right) = (self.matrix(file, a)?, self.matrix(file, b)?);
            if self.tensors.contains_key(core) {
                // With a core the left factor lies the other way.
                let core = self.core(file, core)?;
                layer.check(left.columns, right.columns * core.kernel)?;
                if core.matrix.rows > layer.out.max(layer.columns) {
                    return Err(UNFIT.to_string());
                }
                (left, right) = (left.transposed(), core.fold(&right)?);
            }
            layer.check(left.rows, right.columns)?;
            Ok([left, right])
        };
        let ([b1, a1], [b2, a2]) = (half("w1_a", "w1_b", "t1")?, half("w2_a", "w2_b", "t2")?);
        if b1.columns != a1.rows || b2.columns != a2.rows {
            return Err(UNFIT.into());
        }
        if !layer.gains(a1.rows.saturating_mul(a2.rows)) {
            let (mut whole, other) = (b1.times(&a1)?, b2.times(&a2)?);
            whole.values.iter_mut().zip(&other.values).for_each(|(x, y)| *x *= y);
            return Ok((whole, None));
        }
        let pairs = |m1: &Matrix, m2: &Matrix| Matrix {
            rows: m1.rows * m2.rows,
            columns: m1.columns,
            values: (0..m1.rows * m2.rows)
                .flat_map(|i| m1.row(i / m2.rows).iter().zip(m2.row(i % m2.rows)).map(|(x, y)| x * y))
                .collect(),
        };
        Ok((pairs(&a1, &a2), Some(pairs(&b1.transposed(), &b2.transposed()).transposed())))
    }

    /// `w1 ⊗ w2`, of which each may be a product. Where w2 is one of a small rank, `(w1 ⊗ w2_a) · (1 ⊗ w2_b)`.
    fn lokr(&self, file: &Safetensors, layer: &Layer) -> Result<Factors, String> {
        let w1 = match self.tensors.contains_key("k1") {
            true => self.matrix(file, "k1")?,
            false => {
                let (a, b) = (self.matrix(file, "k1_a")?, self.matrix(file, "k1_b")?);
                if a.rows > layer.out || b.columns > layer.columns {
                    return Err(UNFIT.into());
                }
                a.times(&b)?
            }
        };
        let check = |rows: usize, columns: usize| {
            layer.check(w1.rows.saturating_mul(rows), w1.columns.saturating_mul(columns))
        };
        if self.tensors.contains_key("k2") {
            let w2 = self.matrix(file, "k2")?;
            check(w2.rows, w2.columns)?;
            return Ok((w1.kron(&w2), None));
        }
        let (mut left, mut right) = (self.matrix(file, "k2_a")?, self.matrix(file, "k2_b")?);
        if self.tensors.contains_key("kt2") {
            let core = self.core(file, "kt2")?;
            check(left.columns, right.columns.saturating_mul(core.kernel))?;
            (left, right) = (left.transposed(), core.fold(&right)?);
        }
        check(left.rows, right.columns)?;
        if !layer.gains(w1.columns.saturating_mul(right.rows)) {
            return Ok((w1.kron(&left.times(&right)?), None));
        }
        if left.columns != right.rows {
            return Err(UNFIT.into());
        }
        Ok((Matrix::one(w1.columns).kron(&right), Some(w1.kron(&left))))
    }

    /// One of its tensors.
    fn tensor(&self, slot: &str) -> Result<&Tensor, String> {
        self.tensors.get(slot).ok_or_else(|| {
            let name = match slot {
                "down" | "up" => format!("lora_{slot}"),
                _ if slot.starts_with('k') => slot.replacen('k', "lokr_w", 1),
                _ => format!("hada_{slot}"),
            };
            format!("lacks its {name}")
        })
    }

    /// The tensor in `slot` as rows of whatever follows its first dimension.
    fn matrix(&self, file: &Safetensors, slot: &str) -> Result<Matrix, String> {
        let t = self.tensor(slot)?;
        let rows = t.shape.first().copied().unwrap_or(0);
        if rows == 0 || t.elements() == 0 {
            return Err("is empty".into());
        }
        let mut values = vec![0.0; t.elements()];
        t.dtype.decode(file.bytes(t), &mut values);
        Ok(Matrix { rows, columns: t.elements() / rows, values })
    }

    /// A core `(I, J, kernel…)`.
    fn core(&self, file: &Safetensors, slot: &str) -> Result<Core, String> {
        let matrix = self.matrix(file, slot)?;
        match self.tensors[slot].shape[..] {
            [_, j, ..] => Ok(Core { kernel: matrix.columns / j, matrix }),
            _ => Err(UNFIT.into()),
        }
    }
}

fn added(a: Factor, b: Option<Factor>, scale: f32) -> Update {
    Update { a, b, scale, magnitude: None, then: Vec::new() }
}

/// The layer that an update is for.
struct Layer {
    out: usize,
    /// inputs, times the taps of a kernel
    columns: usize,
}

impl Layer {
    /// Refuses what is of other dimensions.
    fn check(&self, rows: usize, columns: usize) -> Result<(), String> {
        if [rows, columns] == [self.out, self.columns] {
            return Ok(());
        }
        let Layer { out, columns: inner } = self;
        Err(format!(
            "is for {rows} rows of {columns}, and that layer has {out} of {inner}; it was made for another model"
        ))
    }

    /// Whether two factors of that rank are less than their product.
    fn gains(&self, rank: usize) -> bool {
        rank.saturating_mul(2) <= self.out.min(self.columns)
    }
}

const UNFIT: &str = "has factors that do not fit together";

/// `(I, J · kernel)`
struct Core {
    matrix: Matrix,
    kernel: usize,
}

impl Core {
    /// `(I, R · kernel)` by `right` `(J, R)`.
    fn fold(&self, right: &Matrix) -> Result<Matrix, String> {
        let (core, k) = (&self.matrix, self.kernel);
        let columns = right.columns * k;
        if core.columns != right.rows * k {
            return Err(UNFIT.into());
        }
        let mut values = vec![0.0; core.rows * columns];
        for (i, out) in values.chunks_exact_mut(columns).enumerate() {
            for (taps, row) in core.row(i).chunks_exact(k).zip(right.values.chunks_exact(right.columns)) {
                for (out, x) in out.chunks_exact_mut(k).zip(row) {
                    out.iter_mut().zip(taps).for_each(|(out, tap)| *out += tap * x);
                }
            }
        }
        Ok(Matrix { rows: core.rows, columns, values })
    }
}

impl Matrix {
    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.columns..][..self.columns]
    }

    fn one(n: usize) -> Matrix {
        let values = (0..n * n).map(|i| f32::from(i / n == i % n)).collect();
        Matrix { rows: n, columns: n, values }
    }

    fn transposed(&self) -> Matrix {
        let at = |i: usize| self.values[i % self.rows * self.columns + i / self.rows];
        let values = (0..self.values.len()).map(at).collect();
        Matrix { rows: self.columns, columns: self.rows, values }
    }

    /// Their product.
    fn times(&self, right: &Matrix) -> Result<Matrix, String> {
        if self.columns != right.rows {
            return Err(UNFIT.into());
        }
        let mut values = vec![0.0; self.rows * right.columns];
        for (i, out) in values.chunks_exact_mut(right.columns).enumerate() {
            for (x, row) in self.row(i).iter().zip(right.values.chunks_exact(right.columns)) {
                out.iter_mut().zip(row).for_each(|(out, y)| *out += x * y);
            }
        }
        Ok(Matrix { rows: self.rows, columns: right.columns, values })
    }

    /// Kronecker's product.
    fn kron(&self, inner: &Matrix) -> Matrix {
        let (rows, columns) = (self.rows * inner.rows, self.columns * inner.columns);
        let mut values = Vec::with_capacity(rows * columns);
        for i in 0..rows {
            for x in self.row(i / inner.rows) {
                values.extend(inner.row(i % inner.rows).iter().map(|y| x * y));
            }
        }
        Matrix { rows, columns, values }
    }
}
