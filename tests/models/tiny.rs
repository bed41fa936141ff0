//! Random tiny models of every architecture, each through the same runner.

use crate::golden::{Arrays, facts, folder, ids, largest_difference};
use hob_engine::{Group, Model, Options, Precision, Session};
use hob_graph::DType;
use hob_io::Checkpoint;
use std::sync::Arc;

const TINY: &[&str] = &[
    "llama",
    "llama3-rope",
    "llama-linear-rope",
    "llama-yarn",
    "llama-bias",
    "llama-bf16-sharded",
    "mistral",
    "gemma3",
    "gemma3-linear-rope",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "qwen3-moe",
    "qwen3-moe-mixed",
    "mixtral",
];

pub fn exact() -> Options {
    Options { threads: 2, precision: Precision::Exact, kv: DType::F32.into(), check: true, mapped: true }
}

pub fn open(name: &str, options: Options) -> Arc<Model> {
    let checkpoint = Checkpoint::open(&folder(&format!("tiny/{name}"))).unwrap();
    Arc::new(Model::new(Arc::new(checkpoint), options).unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Logits `(T, V)` of `ids`, fed in parts of the given lengths.
fn logits(model: &Arc<Model>, ids: &[u32], parts: &[usize]) -> Vec<f32> {
    let mut session = Session::new(model, ids.len()).unwrap();
    let mut out = Vec::new();
    let mut at = 0;
    for n in parts {
        out.extend_from_slice(session.feed_all(&ids[at..at + n]).unwrap());
        at += n;
    }
    assert_eq!(at, ids.len());
    out
}

#[test]
fn logits_are_those_of_transformers() {
    for name in TINY {
        let (facts, arrays) =
            (facts(&format!("tiny/{name}")), Arrays::open(&format!("tiny/{name}"), "golden"));
        let ids = ids(&facts["ids"]);
        let ours = logits(&open(name, exact()), &ids, &[ids.len()]);
        let d = largest_difference(&ours, &arrays.get("logits"));
        assert!(d < 2e-4, "{name}: logits differ by {d}");
    }
}

#[test]
fn older_and_newer_configurations_mean_the_same() {
    for name in TINY {
        let folder = folder(&format!("tiny/{name}"));
        let mut config =
            serde_json::from_slice(&std::fs::read(folder.join("config-transformers4.json")).unwrap())
                .unwrap();
        let newer = Checkpoint::open(&folder).unwrap();
        for fact in ["rope_interleaved", "norm_weight_offset"] {
            let value: &serde_json::Value = &newer.config[fact];
            if !value.is_null() {
                let config: &mut serde_json::Value = &mut config;
                config[fact] = value.clone();
            }
        }
        let [old, new] = [&config, &newer.config].map(|c| {
            let g = hob_models::language(c).unwrap_or_else(|e| panic!("{name}: {e}")).graph(5, 1).unwrap();
            (g.to_string(), g.consts)
        });
        assert_eq!(old, new, "{name}");
    }
}

#[test]
fn a_prompt_in_parts_or_token_by_token_is_the_same() {
    for name in TINY {
        let ids = ids(&facts(&format!("tiny/{name}"))["ids"]);
        let model = open(name, exact());
        let whole = logits(&model, &ids, &[24]);
        for parts in [&[1; 24][..], &[7, 1, 16], &[23, 1]] {
            let d = largest_difference(&whole, &logits(&model, &ids, parts));
            assert!(d < 1e-4, "{name} in {parts:?}: {d}");
        }
        let halves = open(name, Options { kv: DType::F16.into(), check: false, ..exact() });
        let d = largest_difference(&whole, &logits(&halves, &ids, &[12, 12]));
        let size = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(d < 5e-3 * size, "{name} with a cache in f16: {d} of {size}");
    }
}

/// Sequences of different lengths, windows among them, that share each step's weights.
#[test]
fn sequences_of_a_group_are_as_those_alone() {
    for name in TINY {
        let ids = ids(&facts(&format!("tiny/{name}"))["ids"]);
        let model = open(name, exact());
        let mut group = Group::new(&model, 3, ids.len() + 2).unwrap();
        for again in [false, true] {
            let starts = [5, 20, 1];
            for (i, &n) in starts.iter().enumerate() {
                group.feed(i, &ids[..n]).unwrap();
            }
            for step in 0..3 {
                group.step(&starts.map(|n| ids[n + step])).unwrap();
            }
            assert_eq!([0, 1, 2].map(|i| group.ids(i).len()), [8, 23, 4]);
            for (i, n) in [8, 23, 4].into_iter().enumerate() {
                let mut alone = Session::new(&model, n).unwrap();
                alone.feed(&ids[..n]).unwrap();
                let d = largest_difference(alone.logits(), group.logits(i));
                assert!(d < 1e-4, "{name}, sequence {i}, again {again}: {d}");
            }
            group.clear();
        }
        assert!(
            group.feed(1, &vec![ids[0]; ids.len() + 3]).is_err()
                && [0, 1, 2].map(|i| group.ids(i).len()) == [0; 3]
        );
    }
}

#[test]
fn integer_kernels_stay_near() {
    for name in TINY {
        let ids = ids(&facts(&format!("tiny/{name}"))["ids"]);
        let whole = logits(&open(name, exact()), &ids, &[24]);
        let fast = open(name, Options { precision: Precision::Fast, check: false, ..exact() });
        let d = largest_difference(&whole, &logits(&fast, &ids, &[24]));
        let size = whole.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(d < 0.05 * size, "{name}: {d} of {size}");
    }
}

#[test]
fn a_session_rewinds_and_reads_only_what_is_new() {
    let model = open("llama", exact());
    let ids = ids(&facts("tiny/llama")["ids"]);
    let mut session = Session::new(&model, 64).unwrap();
    let never_stop = |_, _| true;
    assert_eq!(session.prompt(&ids[..10], never_stop).unwrap(), 10);
    let ten = session.logits().to_vec();
    assert_eq!(session.prompt(&ids, never_stop).unwrap(), 14);
    let all = session.logits().to_vec();
    assert_eq!(session.prompt(&ids, never_stop).unwrap(), 0);
    assert_eq!(session.logits(), all);
    assert_eq!(session.prompt(&ids[..10], never_stop).unwrap(), 1);
    assert!(largest_difference(session.logits(), &ten) < 1e-5);
    let mut other = ids.clone();
    other[5] = (other[5] + 1) % 96;
    assert_eq!(session.prompt(&other, never_stop).unwrap(), 19);
    let mut fresh = Session::new(&model, 64).unwrap();
    fresh.prompt(&other, never_stop).unwrap();
    assert!(largest_difference(session.logits(), fresh.logits()) < 1e-5);
}

#[test]
fn what_does_not_fit_is_said() {
    let model = open("llama", exact());
    let mut session = Session::new(&model, 8).unwrap();
    let e = session.prompt(&[1; 11], |_, _| true).unwrap_err().to_string();
    assert!(e.starts_with("the text has 11 tokens, 3 more than the context of 8 holds"), "{e}");
    assert!(session.prompt(&[], |_, _| true).unwrap_err().to_string().contains("empty"));
    assert!(session.prompt(&[96], |_, _| true).unwrap_err().to_string().contains("token id 96"));
    assert!(session.ids().is_empty());
}

#[test]
fn an_answer_ends_for_a_reason() {
    use hob_engine::{Sampler, Sampling, Stop};
    let model = open("llama", exact());
    let ids = ids(&facts("tiny/llama")["ids"]);
    let answer = |context: usize, most: usize, ends: &[u32]| {
        let mut session = Session::new(&model, context).unwrap();
        session.prompt(&ids[..10], |_, _| true).unwrap();
        let mut sampler = Sampler::new(Sampling::greedy());
        let mut tokens = session.generate(&mut sampler, most, ends);
        let ids: Vec<u32> = tokens.by_ref().map(|t| t.unwrap()).collect();
        (ids, tokens.stop())
    };
    let (free, stop) = answer(64, 6, &[]);
    assert_eq!((free.len(), stop), (6, Some(Stop::Length)));
    let (cut, stop) = answer(12, 100, &[]);
    assert_eq!((&cut[..], stop), (&free[..3], Some(Stop::Context)));
    let first_of_its_kind = (1..6).find(|&i| !free[..i].contains(&free[i]));
    if let Some(i) = first_of_its_kind {
        let (ended, stop) = answer(64, 100, &[free[i]]);
        assert_eq!((&ended[..], stop), (&free[..i], Some(Stop::End)));
    }
}

/// Two sequences in one run are what each is alone: packed with nothing between, and then each a token further.
#[test]
fn a_batch_is_its_sequences() {
    use hob_cpu::Kv;
    use hob_cpu::exec::Memory;
    use hob_graph::{Batch, Data, Seq, graph::windows};
    for name in TINY {
        let model = open(name, exact());
        let ids = ids(&facts(&format!("tiny/{name}"))["ids"]);
        let (a, b) = (&ids[..13], &ids[5..]);
        let alone = [logits(&model, a, &[a.len()]), logits(&model, b, &[b.len()])];
        let v = model.vocab_size();
        let states = &model.program(1, 1).unwrap().graph.states;
        let windows = windows(states).len();
        let mut kv = Kv::new(states, DType::F32, |_| 2).unwrap();
        let mut memory = Memory::new();
        let mut run = |parts: [&[u32]; 2], pos: [usize; 2]| {
            let given: Vec<i32> = parts.concat().iter().map(|&id| id as i32).collect();
            let program = model.program(given.len(), given.len()).unwrap();
            let seqs = [
                Seq {
                    start: 0,
                    len: parts[0].len(),
                    pos: pos[0],
                    read: true,
                    pages: &[&[1u32][..]; 2][..windows],
                },
                Seq {
                    start: parts[0].len(),
                    len: parts[1].len(),
                    pos: pos[1],
                    read: false,
                    pages: &[&[0u32][..]; 2][..windows],
                },
            ];
            let batch = Batch { inputs: &[("ids", Data::I32(&given))], seqs: &seqs };
            model.cpu().run(&program, &mut memory, Some(&mut kv), &batch).unwrap();
            program.output(&memory, "logits").unwrap().to_vec()
        };
        let (m, n) = (a.len() - 1, b.len() - 1);
        let most = run([&a[..m], &b[..n]], [0, 0]);
        let last = run([&a[m..], &b[n..]], [m, n]);
        let together = [[&most[..m * v], &last[..v]].concat(), [&most[m * v..], &last[v..]].concat()];
        for (alone, together) in alone.iter().zip(&together) {
            let d = largest_difference(alone, together);
            assert!(d < 1e-4, "{name}: {d}");
        }
    }
}

/// Layers with a window give pages back, and what comes out is what a cache of all tokens gives.
#[test]
fn windows_give_pages_back() {
    use hob_cpu::{Kv, KvTypes, exec::Memory, kv::PAGE};
    use hob_graph::{Batch, Data, Seq, graph::windows};
    for (name, dtype) in [("mistral", DType::F32), ("gemma3", DType::F32), ("gemma3", DType::Q4_0)] {
        let kv = KvTypes::both(dtype);
        let model = open(name, Options { kv, check: false, ..exact() });
        let ids: Vec<u32> = (0..1300).map(|i| (i * 7 + i / 9) % model.vocab_size() as u32).collect();
        let states = &model.program(1, 1).unwrap().graph.states;
        let mut cache = Kv::new(states, kv, |_| ids.len().div_ceil(PAGE)).unwrap();
        let table: Vec<u32> = (0..ids.len().div_ceil(PAGE) as u32).collect();
        let tables = [&table[..]; 2];
        let mut memory = Memory::new();
        let mut session = Session::new(&model, ids.len()).unwrap();
        let given: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let mut at = 0;
        for n in [512, 512, 1, 1, 130, 1, 140, 1, 2] {
            let program = model.program(n, n).unwrap();
            let seqs =
                [Seq { start: 0, len: n, pos: at, read: true, pages: &tables[..windows(states).len()] }];
            let batch = Batch { inputs: &[("ids", Data::I32(&given[at..at + n]))], seqs: &seqs };
            model.cpu().run(&program, &mut memory, Some(&mut cache), &batch).unwrap();
            let right = program.output(&memory, "logits").unwrap();
            let ours = session.feed_all(&ids[at..at + n]).unwrap();
            assert!(ours == right, "{name} in {dtype}, {n} tokens after {at}");
            at += n;
        }
        // A step back is within what is kept; a long way back begins anew. Either way the answer is the same.
        let after = |session: &mut Session, n: usize| {
            session.prompt(&ids[..n], |_, _| true).map(|read| (read, session.logits().to_vec())).unwrap()
        };
        let mut fresh = Session::new(&model, ids.len()).unwrap();
        for (n, read) in [(1290, 1), (1000, 1), (600, 600)] {
            let (ours, right) = (after(&mut session, n), after(&mut fresh, n));
            assert_eq!(ours.0, read, "{name}: tokens read again");
            let d = largest_difference(&ours.1, &right.1);
            assert!(d < if dtype == DType::F32 { 1e-4 } else { 0.2 }, "{name} in {dtype}: {d} after {n}");
        }
    }
}

/// A model of quantized weights is the model of what they decode to; nearly so with integer kernels.
#[test]
fn quantized_weights_are_what_they_decode_to() {
    use hob_cpu::{Buffer, Cpu, Kv, Tensor, Weights, exec::Memory};
    use hob_graph::{Batch, Data, Seq, graph::windows};
    for name in ["llama", "gemma3", "qwen3-moe"] {
        let model = open(name, exact());
        let ids: Vec<i32> = ids(&facts(&format!("tiny/{name}"))["ids"]).iter().map(|&id| id as i32).collect();
        let [mut quantized, mut decoded] = [Weights::default(), Weights::default()];
        for w in model.graph(1, 1).unwrap().weights {
            let stored = model.weights().get(&w.name).unwrap();
            let mut values = vec![0.0; w.shape.count()];
            stored.dtype.decode(stored.bytes(), &mut values);
            let block = !w.name.contains("norm") && w.shape.last().is_multiple_of(32);
            let dtype = if block { DType::Q8_0 } else { DType::F32 };
            let mut bytes = Buffer::zeroed(dtype.bytes(values.len()).unwrap()).unwrap();
            dtype.encode(&values, bytes.bytes_mut());
            let tensor = Tensor::own(dtype, bytes);
            decoded.insert(&w.name, tensor.decode().unwrap());
            quantized.insert(&w.name, tensor);
        }
        let run = |weights: &Weights, precision| {
            let mut graph = model.graph(ids.len(), ids.len()).unwrap();
            let shapes: Vec<_> = graph.weights.iter().map(|w| (w.name.clone(), w.shape.to_vec())).collect();
            let shape = |n: &str| shapes.iter().find(|s| s.0 == n).unwrap().1.clone();
            graph.bind(|n| Some((weights.get(n)?.dtype, shape(n)))).unwrap();
            let cpu = Cpu::new(2, precision);
            let windows = windows(&graph.states).len();
            let mut kv = Kv::new(&graph.states, DType::F32, |_| 1).unwrap();
            let program = cpu.program(graph, weights).unwrap();
            let mut memory = Memory::new();
            let seqs =
                [Seq { start: 0, len: ids.len(), pos: 0, read: true, pages: &[&[0u32][..]; 2][..windows] }];
            let batch = Batch { inputs: &[("ids", Data::I32(&ids))], seqs: &seqs };
            cpu.run(&program, &mut memory, Some(&mut kv), &batch).unwrap();
            program.output(&memory, "logits").unwrap().to_vec()
        };
        let float = run(&decoded, Precision::Exact);
        let d = largest_difference(&float, &run(&quantized, Precision::Exact));
        assert!(d < 1e-3, "{name}: {d}");
        // Random weights amplify the rounding of activations far more than trained ones do.
        let d = largest_difference(&float, &run(&quantized, Precision::Fast));
        let size = float.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(d > 0.0 && d < 0.2 * size, "{name} with integer kernels: {d} of {size}");
    }
}
