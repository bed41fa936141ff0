//! Fine-tuning: the gradient of a model's graph, and AdamW on the adapter's weights.

use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Program, Tensor, Weights};
use hob_graph::{Batch, Graph, WeightId, grad};

/// AdamW (Loshchilov & Hutter 2017), with torch's defaults.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// A weight that is trained.
struct Parameter {
    name: String,
    id: WeightId,
    value: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

/// Trains some weights of a graph on its output `loss`.
pub struct Tuner<'c> {
    cpu: &'c Cpu,
    program: Program,
    memory: Memory,
    parameters: Vec<Parameter>,
    how: AdamW,
    steps: i32,
}

impl<'c> Tuner<'c> {
    /// A tuner of the weights called `names`, which must be in f32. `graph` is bound, and has an output `loss`.
    pub fn new(
        cpu: &'c Cpu,
        graph: &Graph,
        weights: &Weights,
        names: &[&str],
        how: AdamW,
    ) -> Result<Tuner<'c>> {
        let with_gradient = grad(graph, "loss", names)
            .map_err(|source| Error::Graph { model: "this model".into(), source })?;
        let program = cpu.program(with_gradient, weights)?;
        let mut parameters = Vec::with_capacity(names.len());
        for name in names {
            let id = program.graph.weight(name).expect("the gradient knows its weights");
            let tensor = weights.get(name).expect("the program has its weights");
            if tensor.dtype != hob_graph::DType::F32 {
                return Err(Error::Ask(format!(
                    "{name} is stored as {} and cannot be trained",
                    tensor.dtype
                )));
            }
            let value = tensor.decode().map_err(hob_cpu::exec::ExecError::Memory)?;
            let value: Vec<f32> = value
                .bytes()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
                .collect();
            let (mean, square) = (vec![0.0; value.len()], vec![0.0; value.len()]);
            parameters.push(Parameter { name: name.to_string(), id, value, mean, square });
        }
        Ok(Tuner { cpu, program, memory: Memory::new(), parameters, how, steps: 0 })
    }

    /// Computes loss and gradients on `batch`; changes no weight.
    pub fn loss(&mut self, batch: &Batch) -> Result<f32> {
        self.cpu.run(&self.program, &mut self.memory, None, batch)?;
        Ok(self.program.output(&self.memory, "loss").expect("the graph has a loss")[0])
    }

    /// The gradient of the loss last computed with respect to the weight `name`.
    pub fn gradient(&self, name: &str) -> Option<&[f32]> {
        self.program.output(&self.memory, &format!("grad:{name}"))
    }

    /// The weight `name` as it is now.
    pub fn value(&self, name: &str) -> Option<&[f32]> {
        self.parameters.iter().find(|p| p.name == name).map(|p| &p.value[..])
    }

    /// One step of AdamW on `batch`; returns the loss before it.
    pub fn step(&mut self, batch: &Batch) -> Result<f32> {
        let loss = self.loss(batch)?;
        self.steps += 1;
        let AdamW { lr, beta1, beta2, eps, weight_decay } = self.how;
        let (fix1, fix2) = (1.0 - beta1.powi(self.steps), 1.0 - beta2.powi(self.steps));
        for p in &mut self.parameters {
            let gradient = self
                .program
                .output(&self.memory, &format!("grad:{}", p.name))
                .expect("every trained weight has a gradient");
            for (i, g) in gradient.iter().enumerate() {
                p.mean[i] = beta1 * p.mean[i] + (1.0 - beta1) * g;
                p.square[i] = beta2 * p.square[i] + (1.0 - beta2) * g * g;
                let step = (p.mean[i] / fix1) / ((p.square[i] / fix2).sqrt() + eps);
                p.value[i] -= lr * (step + weight_decay * p.value[i]);
            }
            let tensor = Tensor::from_f32(&p.value).map_err(hob_cpu::exec::ExecError::Memory)?;
            self.program.replace(p.id, tensor);
        }
        Ok(loss)
    }
}
