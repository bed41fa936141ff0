//! Gradients and fine-tuning against torch.

use crate::golden::{Arrays, facts, folder, ids, largest_difference};
use hob_cpu::Tensor;
use hob_engine::tune::{AdamW, Tuner};
use hob_engine::{Model, Options, Precision};
use hob_graph::lora::{Lora, lora};
use hob_graph::{Batch, Data, Graph, Seq};
use hob_io::Checkpoint;
use std::sync::Arc;

/// The golden's two sequences, packed one after the other.
struct Packed {
    ids: Vec<i32>,
    targets: Vec<i32>,
    seqs: Vec<Seq<'static>>,
}

impl Packed {
    fn golden() -> Packed {
        let mut packed = Packed { ids: vec![], targets: vec![], seqs: vec![] };
        for sequence in facts("lora")["sequences"].as_array().unwrap() {
            let ids: Vec<i32> = ids(sequence).iter().map(|&id| id as i32).collect();
            packed.seqs.push(Seq { start: packed.ids.len(), len: ids.len(), pos: 0, read: true, pages: &[] });
            packed.targets.extend_from_slice(&ids[1..]);
            packed.targets.push(-1); // nothing follows the last token
            packed.ids.extend(ids);
        }
        packed
    }

    fn run<V>(&self, f: impl FnOnce(&Batch) -> V) -> V {
        let inputs = [("ids", Data::I32(&self.ids)), ("targets", Data::I32(&self.targets))];
        f(&Batch { inputs: &inputs, seqs: &self.seqs })
    }
}

fn model() -> Model {
    let options = Options { threads: 2, precision: Precision::Exact, ..Options::default() };
    Model::new(Arc::new(Checkpoint::open(&folder("tiny/llama")).unwrap()), options).unwrap()
}

/// The model's training graph with the golden's adapter, its weights in `model`; and the adapter's names.
fn adapted(model: &mut Model, tokens: usize) -> (Graph, Vec<String>) {
    let how = Lora { rank: 4, alpha: 8.0, targets: &["q_proj", "v_proj"] };
    let (graph, names) = lora(&model.training_graph(tokens).unwrap(), &how).unwrap();
    let adapter = Arrays::open("lora", "adapter_model");
    for name in &names {
        let values = adapter.get(&format!("base_model.model.{name}"));
        model.weights_mut().insert(name, Tensor::from_f32(&values).unwrap());
    }
    (graph, names)
}

#[test]
fn gradients_are_torchs_for_every_weight_and_adapter() {
    let (packed, arrays, mut model) = (Packed::golden(), Arrays::open("lora", "golden"), model());
    let (graph, _) = adapted(&mut model, packed.ids.len());
    let names: Vec<&str> = graph.weights.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names.len(), 21 + 8, "every weight of two layers, and two adapters in each");
    let mut tuner = Tuner::new(model.cpu(), &graph, model.weights(), &names, AdamW::default()).unwrap();
    let loss = packed.run(|batch| tuner.loss(batch)).unwrap();
    assert!((loss as f64 - facts("lora")["loss"].as_f64().unwrap()).abs() < 1e-4, "{loss}");
    for name in names {
        let theirs = arrays.get(&format!("grad.{name}"));
        let size = theirs.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        let d = largest_difference(tuner.gradient(name).unwrap(), &theirs);
        assert!(size > 0.0 && d < 1e-3 * size, "{name}: {d} of {size}");
    }
}

#[test]
fn twenty_steps_of_lora_lose_what_torch_loses() {
    let (packed, golden, mut model) = (Packed::golden(), facts("lora"), model());
    let (graph, names) = adapted(&mut model, packed.ids.len());
    let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
    let how = AdamW { lr: 1e-2, ..AdamW::default() };
    let mut tuner = Tuner::new(model.cpu(), &graph, model.weights(), &names, how).unwrap();
    let theirs: Vec<f64> = golden["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert_eq!(theirs.len(), 20);
    for (step, theirs) in theirs.iter().enumerate() {
        let ours = packed.run(|batch| tuner.step(batch)).unwrap() as f64;
        assert!((ours - theirs).abs() < 2e-3, "step {step}: {ours}, by torch {theirs}");
    }
    let last = packed.run(|batch| tuner.loss(batch)).unwrap() as f64;
    assert!((last - golden["final_loss"].as_f64().unwrap()).abs() < 2e-3, "{last}");
    assert!(last < theirs[0] / 2.0);
    let arrays = Arrays::open("lora", "golden");
    for name in names {
        let d = largest_difference(tuner.value(name).unwrap(), &arrays.get(&format!("final.{name}")));
        assert!(d < 2e-3, "{name} after training: {d}");
    }
}

#[test]
fn an_adapter_of_zeros_changes_nothing() {
    let (packed, mut model) = (Packed::golden(), model());
    let (graph, names) = adapted(&mut model, packed.ids.len());
    for name in names.iter().filter(|n| n.contains("lora_B")) {
        let len = graph.weights[graph.weight(name).unwrap().0 as usize].shape.count();
        model.weights_mut().insert(name, Tensor::from_f32(&vec![0.0; len]).unwrap());
    }
    let a = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let mut tuner = Tuner::new(model.cpu(), &graph, model.weights(), &[a], AdamW::default()).unwrap();
    let loss = packed.run(|batch| tuner.loss(batch)).unwrap();
    let without = facts("lora")["loss_without_adapter"].as_f64().unwrap();
    assert!((loss as f64 - without).abs() < 1e-5, "{loss}, without an adapter {without}");
    assert!(tuner.gradient(a).unwrap().iter().all(|g| *g == 0.0));
}

#[test]
fn what_cannot_be_trained_is_said() {
    let model = model();
    let graph = model.training_graph(4).unwrap();
    let new = |name: &str| {
        Tuner::new(model.cpu(), &graph, model.weights(), &[name], AdamW::default()).err().unwrap().to_string()
    };
    assert!(new("model.nothing").contains("no weight called model.nothing"));
    let how = Lora { rank: 4, alpha: 8.0, targets: &["x_proj"] };
    assert_eq!(lora(&graph, &how).unwrap_err().to_string(), "no linear layer is called x_proj");
}
