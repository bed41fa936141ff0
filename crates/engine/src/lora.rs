//! LoRAs on a part of a picture model: summed, then merged into weights that are plain numbers, or beside them while it runs.

use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Buffer, Cpu, Tensor, Weights};
use hob_graph::lora::{Part, adapt, names};
use hob_graph::{Batch, Builder, DType, Graph};
use hob_io::lora::{Factor, Magnitude, Update};
use std::collections::{BTreeMap, HashSet};

/// What is added to weights, by their names.
#[derive(Clone, Debug, Default)]
pub struct Updates(BTreeMap<String, Update>);

impl Updates {
    /// The sum of what several files change of one part, each at its strength. Ranks are put side by side, so that one weight
    /// has one update.
    pub fn sum(files: &[(&BTreeMap<String, Update>, f32)]) -> Updates {
        let mut all: BTreeMap<&String, Vec<Update>> = BTreeMap::new();
        for (updates, strength) in files.iter().filter(|(_, strength)| *strength != 0.0) {
            // Trainers write updates of nothing, too, even of what is read by no layer.
            let last = |u: &Update| {
                u.magnitude.is_some() || u.b.as_ref().unwrap_or(&u.a).bytes().iter().any(|byte| *byte != 0)
            };
            for (name, update) in updates.iter().filter(|(_, update)| last(update)) {
                let mut update = update.clone();
                match &mut update.magnitude {
                    Some(magnitude) => magnitude.strength *= strength,
                    None => update.scale *= strength,
                }
                all.entry(name).or_default().push(update);
            }
        }
        Updates(all.into_iter().map(|(name, updates)| (name.clone(), summed(updates))).collect())
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that stand beside the weights when all updates do.
    pub fn bytes(&self) -> usize {
        self.0.values().flat_map(|u| [Some(&u.a), u.b.as_ref()]).flatten().map(|f| f.range.len()).sum()
    }

    /// Merges those of weights stored as F32, F16 or BF16 into copies of these, in their own format, and gives back the
    /// others, which go beside their weights.
    ///
    /// # Errors
    /// A weight is not there, or the system grants no memory for its copy.
    pub fn merge(self, cpu: &Cpu, weights: &mut Weights) -> Result<Updates> {
        self.merge_told(cpu, weights, &|_| {})
    }

    /// The same; `done` hears of each weight that will not be read any more.
    pub(crate) fn merge_told(
        mut self,
        cpu: &Cpu,
        weights: &mut Weights,
        done: &dyn Fn(&str),
    ) -> Result<Updates> {
        let mut memory = Memory::new();
        let mut beside = BTreeMap::new();
        for (name, update) in std::mem::take(&mut self.0) {
            let missing = || Error::Ask(format!("a LoRA changes {name}, which the model does not have"));
            let weight = weights.get(&name).ok_or_else(missing)?;
            if !is_plain(weight.dtype) {
                if update.magnitude.is_some() || !update.then.is_empty() {
                    return Err(Error::Ask(format!(
                        "a LoRA is a DoRA, which changes whole weights, and {name} is stored as {}: it can be used with weights in F32, F16 or BF16 alone",
                        weight.dtype
                    )));
                }
                beside.insert(name, update);
                continue;
            }
            let mut merged = merged(cpu, &mut memory, &weight, &update)?;
            for update in &update.then {
                merged = self::merged(cpu, &mut memory, &merged, update)?;
            }
            weights.insert(&name, merged);
            done(&name);
        }
        Ok(Updates(beside))
    }

    /// What [`Updates::merge`] would leave beside weights stored so, and the names of the others.
    pub fn sorted(&self, stored: impl Fn(&str) -> Option<DType>) -> (Updates, HashSet<String>) {
        let plain = |name: &str| stored(name).is_some_and(is_plain);
        let beside = self.0.iter().filter(|(name, _)| !plain(name));
        let beside = beside.map(|(name, update)| (name.clone(), update.clone())).collect();
        (Updates(beside), self.0.keys().filter(|name| plain(name)).cloned().collect())
    }

    /// `graph` with these updates beside its linear layers and convolutions, bound to how weights are stored.
    ///
    /// # Errors
    /// An update is of a weight that neither reads, or `stored` lacks one; the sentence names it.
    pub fn bind(&self, graph: &Graph, stored: impl Fn(&str) -> Option<(DType, Vec<usize>)>) -> Result<Graph> {
        let fail = |e: hob_graph::GraphError| Error::Ask(e.to_string());
        let part = |module: &str| {
            let update = self.0.get(&format!("{module}.weight"))?;
            Some(Part { rank: update.b.as_ref().map(|b| b.dims[1]), scale: update.scale })
        };
        let (mut graph, added) = adapt(graph, part).map_err(fail)?;
        let added: HashSet<&str> = added.iter().map(String::as_str).collect();
        let idle = |name: &&String| !added.contains(factors(name)[0].as_str());
        if let Some(name) = self.0.keys().find(idle) {
            return Err(Error::Ask(format!(
                "a LoRA changes {name}, which is read by no linear layer or convolution; it can be used with weights in F32, F16 or BF16 alone"
            )));
        }
        let own: BTreeMap<String, &Factor> = self.named().collect();
        graph
            .bind(|name| own.get(name).map(|f| (f.dtype, f.dims.clone())).or_else(|| stored(name)))
            .map_err(fail)?;
        Ok(graph)
    }

    /// Puts the updates' own weights beside the model's, for graphs of [`Updates::bind`].
    pub fn add_to(&self, weights: &mut Weights) {
        for (name, factor) in self.named() {
            weights.insert(&name, Tensor::shared(factor.dtype, factor.owner.clone(), factor.range.clone()));
        }
    }

    /// All factors, by the names that [`adapt`] gives them.
    fn named(&self) -> impl Iterator<Item = (String, &Factor)> {
        self.0.iter().flat_map(|(name, update)| {
            let [a, b] = factors(name);
            [Some((a, &update.a)), update.b.as_ref().map(|factor| (b, factor))].into_iter().flatten()
        })
    }
}

/// Whether updates are merged into weights stored so.
fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// The names of the factors of the weight `name`.
fn factors(name: &str) -> [String; 2] {
    names(name.strip_suffix(".weight").unwrap_or(name))
}

/// One update for several of the same weight: their sum, and then DoRAs one by one.
fn summed(updates: Vec<Update>) -> Update {
    let (mut updates, mut then): (Vec<Update>, Vec<Update>) =
        updates.into_iter().partition(|u| u.magnitude.is_none());
    if updates.is_empty() {
        let first = then.remove(0);
        return Update { then, ..first };
    }
    if updates.len() == 1 {
        return Update { then, ..updates.remove(0) };
    }
    let shape = |rows: usize| [&[rows], &updates[0].a.dims[1..]].concat();
    if let Some(up) = updates.iter().map(|u| u.b.as_ref()).collect::<Option<Vec<&Factor>>>() {
        let ranks: Vec<usize> = up.iter().map(|b| b.dims[1]).collect();
        let (rank, out) = (ranks.iter().sum(), up[0].dims[0]);
        let mut b = vec![0.0; out * rank];
        let mut first = 0;
        for (update, up) in updates.iter().zip(&up) {
            let r = up.dims[1];
            for (to, from) in b.chunks_exact_mut(rank).zip(up.values().chunks_exact(r)) {
                to[first..first + r].iter_mut().zip(from).for_each(|(to, from)| *to = from * update.scale);
            }
            first += r;
        }
        let same = updates.iter().all(|u| u.a.dtype == updates[0].a.dtype);
        let a = match same {
            true => Factor::new(
                updates[0].a.dtype,
                shape(rank),
                updates.iter().flat_map(|u| u.a.bytes().to_vec()).collect(),
            ),
            false => Factor::from_f32(
                shape(rank),
                &updates.iter().flat_map(|u| u.a.values()).collect::<Vec<f32>>(),
            ),
        };
        return Update {
            a,
            b: Some(Factor::from_f32(vec![out, rank], &b)),
            scale: 1.0,
            magnitude: None,
            then,
        };
    }
    let mut whole = vec![0.0; out_of(&updates[0]) * columns_of(&updates[0])];
    for update in &updates {
        let columns = columns_of(update);
        let (a, b) = (update.a.values(), update.b.as_ref().map(Factor::values));
        for (i, to) in whole.chunks_exact_mut(columns).enumerate() {
            let mut add = |row: &[f32], by: f32| to.iter_mut().zip(row).for_each(|(to, x)| *to += by * x);
            match &b {
                None => add(&a[i * columns..][..columns], update.scale),
                Some(b) => {
                    let rank = update.a.dims[0];
                    let terms = a.chunks_exact(columns).zip(&b[i * rank..]);
                    terms.for_each(|(row, by)| add(row, by * update.scale));
                }
            }
        }
    }
    let a = Factor::from_f32(shape(out_of(&updates[0])), &whole);
    Update { a, b: None, scale: 1.0, magnitude: None, then }
}

/// Rows of the weight that is changed.
fn out_of(update: &Update) -> usize {
    update.b.as_ref().unwrap_or(&update.a).dims[0]
}

/// And its columns, with the taps of a kernel.
fn columns_of(update: &Update) -> usize {
    update.a.dims[1..].iter().product()
}

/// A copy of `weight` with the update in it, as it is stored.
fn merged(cpu: &Cpu, memory: &mut Memory, weight: &Tensor, update: &Update) -> Result<Tensor> {
    let (out, columns, rank) = (out_of(update), columns_of(update), update.a.dims[0]);
    if weight.dtype.bytes(out * columns) != Some(weight.bytes().len()) {
        return Err(Error::Ask(format!("a LoRA changes {out} rows of {columns}, and the weight has others")));
    }
    let g = Builder::stateless(0);
    let mut delta = g.weight("a", &[rank, columns]);
    if update.b.is_some() {
        delta = g.weight("b", &[out, rank]).matmul(delta);
    }
    g.output("delta", delta * update.scale);
    let fail = |e: hob_graph::GraphError| Error::Ask(e.to_string());
    let mut graph = g.finish().map_err(fail)?;
    let mut factors = Weights::default();
    for (name, factor) in [("a", Some(&update.a)), ("b", update.b.as_ref())] {
        let Some(factor) = factor else { continue };
        factors.insert(name, Tensor::shared(factor.dtype, factor.owner.clone(), factor.range.clone()));
    }
    graph
        .bind(|name| {
            factors
                .get(name)
                .map(|f| (f.dtype, if name == "a" { vec![rank, columns] } else { vec![out, rank] }))
        })
        .map_err(fail)?;
    let program = cpu.program(graph, &factors)?;
    cpu.run(&program, memory, None, &Batch { inputs: &[], seqs: &[] })?;
    let delta = program.output(memory, "delta").unwrap_or_default();

    let taps = update.a.dims[2..].iter().product();
    let dora = update.magnitude.as_ref().map(|m| Dora::new(m, weight, delta, columns, taps)).transpose()?;
    let room = |source| Error::Ask(format!("there is no memory for weights with a LoRA in them ({source})"));
    let mut copy = Buffer::zeroed(weight.bytes().len()).map_err(room)?;
    // Rows of one thread: it decodes, adds and encodes one at a time.
    let (row, some) = (weight.bytes().len() / out, out.div_ceil(cpu.pool.threads()));
    std::thread::scope(|scope| {
        let parts = copy.bytes_mut().chunks_mut(some * row).zip(weight.bytes().chunks(some * row));
        for (part, ((to, from), delta)) in parts.zip(delta.chunks(some * columns)).enumerate() {
            let dora = dora.as_ref();
            scope.spawn(move || {
                let mut values = vec![0.0; columns];
                let rows =
                    to.chunks_exact_mut(row).zip(from.chunks_exact(row)).zip(delta.chunks_exact(columns));
                for (i, ((to, from), delta)) in rows.enumerate() {
                    weight.dtype.decode(from, &mut values);
                    match dora {
                        None => values.iter_mut().zip(delta).for_each(|(value, delta)| *value += delta),
                        Some(dora) => dora.apply(part * some + i, &mut values, delta),
                    }
                    weight.dtype.encode(&values, to);
                }
            });
        }
    });
    Ok(Tensor::own(weight.dtype, copy))
}

/// A DoRA of one weight: what each of its parts is multiplied by once the rest is added.
struct Dora {
    rows: bool,
    /// columns of an input
    taps: usize,
    strength: f32,
    by: Vec<f32>,
}

impl Dora {
    fn new(m: &Magnitude, weight: &Tensor, delta: &[f32], columns: usize, taps: usize) -> Result<Dora> {
        let (out, taps) = (delta.len() / columns, taps.max(1));
        let count = if m.rows { out } else { columns / taps };
        let lengths = m.values.values();
        if lengths.len() != count {
            return Err(Error::Ask(format!(
                "a DoRA has the lengths of {} parts, and the weight has {count}",
                lengths.len()
            )));
        }
        let (mut squares, mut values) = (vec![0.0f64; count], vec![0.0; columns]);
        let row = weight.bytes().len() / out;
        for (i, (from, delta)) in
            weight.bytes().chunks_exact(row).zip(delta.chunks_exact(columns)).enumerate()
        {
            weight.dtype.decode(from, &mut values);
            for (j, (value, delta)) in values.iter().zip(delta).enumerate() {
                squares[if m.rows { i } else { j / taps }] += f64::from(value + delta).powi(2);
            }
        }
        // What has no length has no direction, and stays.
        let by =
            |(length, square): (&f32, &f64)| if *square > 0.0 { length / square.sqrt() as f32 } else { 1.0 };
        let by = lengths.iter().zip(&squares).map(by).collect();
        Ok(Dora { rows: m.rows, taps, strength: m.strength, by })
    }

    /// One row of the weight.
    fn apply(&self, row: usize, values: &mut [f32], delta: &[f32]) {
        for (j, (value, delta)) in values.iter_mut().zip(delta).enumerate() {
            let by = self.by[if self.rows { row } else { j / self.taps }];
            *value += self.strength * ((*value + delta) * by - *value);
        }
    }
}
