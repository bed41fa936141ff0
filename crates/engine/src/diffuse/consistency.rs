//! A consistency model (Song et al. 2023): one evaluation from noise to what it was made of. After `karras_diffusion.py` of
//! openai/consistency_models, with the constants that adaptive-terrain-diffusion exports and samples with.

use crate::stored::shared;
use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Program, Weights};
use hob_graph::{Batch, Data, Graph, GraphError, Plan};
use hob_io::onnx::adm::Adm;
use hob_models::adm::Config;
use std::path::Path;
use std::sync::Arc;

/// The least and the largest noise.
pub const SIGMAS: [f32; 2] = [0.002, 80.0];
/// The spread of what it was trained on.
const SIGMA_DATA: f32 = 0.5;

/// The network with its weights where they lie.
pub struct Consistency {
    adm: Arc<Adm>,
    config: Config,
    weights: Weights,
    cpu: Cpu,
    program: Option<Program>,
    memory: Memory,
}

impl Consistency {
    /// Of an ONNX file.
    ///
    /// # Errors
    /// It cannot be read, or holds another model.
    pub fn open(path: &Path, cpu: Cpu) -> Result<Consistency> {
        let adm = Arc::new(Adm::open(path).map_err(|e| Error::Ask(e.to_string()))?);
        let fail = |what| Error::Ask(format!("{} cannot be run: {what}", path.display()));
        let config = Config::parse(&adm.config).map_err(fail)?;
        if (config.in_channels, config.out_channels, config.label_channels) != (1, 1, Some(1)) {
            return Err(fail("it does not make heights of one difficulty".into()));
        }
        if !config.image_size.is_multiple_of(config.multiple()) || config.image_size > 1024 {
            return Err(fail(format!("it makes pictures of {} pixels a side", config.image_size)));
        }
        let mut weights = Weights::default();
        for (name, tensor) in &adm.tensors {
            weights.insert(name, shared(&adm, tensor));
        }
        Ok(Consistency { adm, config, weights, cpu, program: None, memory: Memory::new() })
    }

    /// Pixels of a side.
    pub fn side(&self) -> usize {
        self.config.image_size
    }

    /// What it takes: bytes of weights, and of memory to work in with the copies of weights that the file does not align.
    ///
    /// # Errors
    /// Weights are missing or of other sizes.
    pub fn planned(&self) -> Result<(usize, usize)> {
        let graph = self.graph()?;
        let plan = Plan::new(&graph, &self.cpu);
        let stored: usize = graph.weights.iter().map(|w| w.bytes()).sum();
        let copied = |t: &&hob_io::Tensor| t.dtype == hob_graph::DType::F32 && !t.offset.is_multiple_of(4);
        let copies: usize = self.adm.tensors.values().filter(copied).map(|t| t.len).sum();
        let constants: usize = graph.consts.iter().map(|c| 4 * c.len()).sum();
        Ok((stored, plan.arena + plan.scratch + constants + copies))
    }

    fn graph(&self) -> Result<Graph> {
        let fail =
            |source: GraphError| Error::Graph { model: self.adm.file().path().display().to_string(), source };
        let mut graph = self.config.graph(1, self.side(), self.side()).map_err(fail)?;
        graph.bind(|name| self.adm.tensors.get(name).map(|t| (t.dtype, t.shape.clone()))).map_err(fail)?;
        Ok(graph)
    }

    /// What the network alone gives: `x` `(H, W)` scaled, a timestep, and a label from 0 to 1.
    ///
    /// # Errors
    /// Weights are missing or of other sizes; memory.
    pub fn network(&mut self, x: &[f32], timestep: f32, label: f32) -> Result<Vec<f32>> {
        if self.program.is_none() {
            self.program = Some(self.cpu.program(self.graph()?, &self.weights)?);
        }
        let program = self.program.as_ref().expect("made above");
        let inputs = [("x", Data::F32(x)), ("timesteps", Data::F32(&[timestep])), ("y", Data::F32(&[label]))];
        self.cpu.run(program, &mut self.memory, None, &Batch { inputs: &inputs, seqs: &[] })?;
        Ok(program.output(&self.memory, "out").unwrap_or_default().to_vec())
    }

    /// What `noisy` `(H, W)` is without noise of `sigma`, in -1..1.
    ///
    /// # Errors
    /// As of [`Consistency::network`]; or a result that is no number.
    pub fn denoise(&mut self, noisy: &[f32], sigma: f32, label: f32) -> Result<Vec<f32>> {
        let (data, above) = (SIGMA_DATA * SIGMA_DATA, sigma - SIGMAS[0]);
        let spread = (sigma * sigma + data).sqrt();
        let (skip, out) = (data / (above * above + data), above * SIGMA_DATA / spread);
        let x: Vec<f32> = noisy.iter().map(|x| x / spread).collect();
        let made = self.network(&x, 250.0 * sigma.ln(), label)?;
        if made.iter().any(|x| !x.is_finite()) {
            let path = self.adm.file().path().display();
            return Err(Error::Ask(format!("the numbers of {path} overflow: the result is NaN or infinite")));
        }
        Ok(made.iter().zip(noisy).map(|(y, x)| (out * y + skip * x).clamp(-1.0, 1.0)).collect())
    }
}
