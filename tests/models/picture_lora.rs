//! LoRAs of picture models at work: what comes out with them merged, and with them beside their weights, is the same, and
//! that of diffusers.

use crate::flux::{Tiny, off};
use crate::golden::{Arrays, facts, folder};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_engine::lora::Updates;
use hob_graph::{Batch, Builder, DType, Data, Graph, Window};
use hob_io::Lora;
use hob_io::lora::{Factor, Part, Role, Update};
use std::collections::BTreeMap;
use std::sync::Arc;

type Map = BTreeMap<String, Update>;

#[test]
fn flux_with_two_loras_gives_what_diffusers_gives() {
    let mut tiny = Tiny::open("dev");
    let shapes = tiny.checkpoint.tensors.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
    let part = Part { role: Role::Denoiser, weights: &shapes, shift_first: false };
    let facts = facts("picture-lora");
    let files: Vec<(Lora, f32)> = (facts["strengths"].as_object().unwrap().iter())
        .map(|(file, strength)| {
            let path = folder("picture-lora").join(format!("{file}.safetensors"));
            (Lora::open(&path, &[part]).unwrap(), strength.as_f64().unwrap() as f32)
        })
        .collect();
    let sum = || {
        Updates::sum(&files.iter().map(|(lora, strength)| (&lora.parts[0], *strength)).collect::<Vec<_>>())
    };
    let expected = Arrays::open("picture-lora", "golden").get("sample");
    let without = tiny.arrays.get("sample");
    assert!(off(&without, &expected) > 0.1);

    let stored = |name: &str| tiny.checkpoint.tensors.get(name).map(|t| (t.dtype, t.shape.clone()));
    let plain = tiny.config.graph(tiny.size()).unwrap();
    let updates = sum();
    let graph = updates.bind(&plain, stored).unwrap();
    let mut weights = Tiny::open("dev").weights;
    updates.add_to(&mut weights);
    let ours = &tiny.run(graph, &weights, 0, &["sample".into()])[0];
    let d = off(ours, &expected);
    assert!(d < 1e-4, "beside its weights it differs by {d}");

    let cpu = Cpu::new(2, Precision::Exact);
    let left = sum().merge(&cpu, &mut tiny.weights).unwrap();
    assert!(left.is_empty());
    let mut plain = plain;
    plain.bind(|name| tiny.checkpoint.tensors.get(name).map(|t| (t.dtype, t.shape.clone()))).unwrap();
    let ours = &tiny.run(plain, &tiny.weights, 0, &["sample".into()])[0];
    let d = off(ours, &expected);
    assert!(d < 1e-4, "merged it differs by {d}");
}

const IN: usize = 64;
const OUT: usize = 48;
const CHANNELS: usize = 5;
const HALVE: Window = Window { kernel: 3, stride: 2, padding: 1 };
const POINT: Window = Window { kernel: 1, stride: 1, padding: 0 };

/// Numbers that look like any, from -1 to 1.
fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0) * 0.5).collect()
}

/// A linear layer, and two convolutions of which one strides.
fn graph() -> Graph {
    let g = Builder::stateless(0);
    let x = g.input("x", &[3, IN], DType::F32);
    g.output("line", x.linear_bias(g.path("line"), OUT));
    let image = g.input("image", &[2, 4, 7, 6], DType::F32);
    let y = image.conv2d(g.path("conv"), CHANNELS, HALVE, true);
    g.output("image", y.conv2d(g.path("point"), 3, POINT, false));
    g.finish().unwrap()
}

fn encoded(dtype: DType, values: &[f32]) -> Tensor {
    let mut bytes = vec![0; dtype.bytes(values.len()).unwrap()];
    dtype.encode(values, &mut bytes);
    let all = 0..bytes.len();
    Tensor::shared(dtype, Arc::new(bytes), all)
}

/// Its weights: those of `line` as `dtype`, those of convolutions as `conv`.
fn weights(dtype: DType, conv: DType) -> Weights {
    let mut weights = Weights::default();
    weights.insert("line.weight", encoded(dtype, &noise(OUT * IN, 1)));
    weights.insert("line.bias", encoded(DType::F32, &noise(OUT, 2)));
    weights.insert("conv.weight", encoded(conv, &noise(CHANNELS * 4 * 9, 3)));
    weights.insert("conv.bias", encoded(DType::F32, &noise(CHANNELS, 4)));
    weights.insert("point.weight", encoded(conv, &noise(3 * CHANNELS, 5)));
    weights
}

fn factor(dims: &[usize], seed: usize, dtype: DType) -> Factor {
    let values = noise(dims.iter().product(), seed);
    let mut bytes = vec![0; dtype.bytes(values.len()).unwrap()];
    dtype.encode(&values, &mut bytes);
    Factor::new(dtype, dims.to_vec(), bytes)
}

/// An update of nothing yet, without a DoRA's lengths.
fn plain(scale: f32) -> Update {
    Update { a: Factor::from_f32(vec![0], &[]), b: None, scale, magnitude: None, then: Vec::new() }
}

/// Three files: of small ranks, of other formats and ranks, and with a whole difference.
fn files() -> [Map; 3] {
    let low = |a: &[usize], out: usize, seed: usize, dtype| Update {
        a: factor(a, seed, dtype),
        b: Some(factor(&[out, a[0]], seed + 1, dtype)),
        ..plain(0.75)
    };
    let whole = |a: &[usize], seed| Update { a: factor(a, seed, DType::F32), ..plain(0.3) };
    let name = |module: &str| format!("{module}.weight");
    [
        Map::from([
            (name("line"), low(&[3, IN], OUT, 11, DType::F16)),
            (name("conv"), low(&[2, 4, 3, 3], CHANNELS, 13, DType::F16)),
            (name("point"), low(&[2, CHANNELS, 1, 1], 3, 15, DType::BF16)),
        ]),
        Map::from([
            (name("line"), low(&[4, IN], OUT, 17, DType::F32)),
            (name("conv"), low(&[1, 4, 3, 3], CHANNELS, 19, DType::F16)),
        ]),
        Map::from([(name("line"), whole(&[OUT, IN], 21)), (name("point"), whole(&[3, CHANNELS, 1, 1], 23))]),
    ]
}

fn stored(weights: &Weights) -> impl Fn(&str) -> Option<(DType, Vec<usize>)> + '_ {
    let shapes = graph().weights.into_iter().map(|w| (w.name, w.shape.to_vec())).collect::<BTreeMap<_, _>>();
    move |name| Some((weights.get(name)?.dtype, shapes.get(name)?.clone()))
}

fn run(graph: Graph, weights: &Weights) -> Vec<f32> {
    let mut cpu = Cpu::new(2, Precision::Exact);
    cpu.check = true;
    let program = cpu.program(graph, weights).unwrap();
    let mut memory = Memory::new();
    let (x, image) = (noise(3 * IN, 31), noise(2 * 4 * 7 * 6, 33));
    let inputs = [("x", Data::F32(&x)), ("image", Data::F32(&image))];
    cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
    ["line", "image"].iter().flat_map(|name| program.output(&memory, name).unwrap().to_vec()).collect()
}

/// Merged by hand: `W + strength · scale · B · A` in f64.
fn by_hand(files: &[(&Map, f32)]) -> Weights {
    let mut weights = weights(DType::F32, DType::F32);
    for name in ["line.weight", "conv.weight", "point.weight"] {
        let stored = weights.get(name).unwrap();
        let mut values = vec![0.0; stored.bytes().len() / 4];
        DType::F32.decode(stored.bytes(), &mut values);
        let mut values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        for (update, strength) in files.iter().filter_map(|(map, s)| Some((map.get(name)?, s))) {
            let by = f64::from(update.scale * strength);
            let a = update.a.values();
            let columns = a.len() / update.a.dims[0];
            for (i, value) in values.iter_mut().enumerate() {
                let (row, column) = (i / columns, i % columns);
                *value += by
                    * match &update.b {
                        None => f64::from(a[i]),
                        Some(b) => {
                            let rank = b.dims[1];
                            let b = b.values();
                            (0..rank)
                                .map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * columns + column]))
                                .sum()
                        }
                    };
            }
        }
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        weights.insert(name, Tensor::from_f32(&values).unwrap());
    }
    weights
}

#[test]
fn merged_or_beside_is_the_same() {
    let files = files();
    let cpu = Cpu::new(2, Precision::Exact);
    for strengths in [&[0.7][..], &[0.7, -1.1], &[0.5, 0.0, 0.9], &[0.7, -1.1, 0.9]] {
        let list: Vec<(&Map, f32)> = files.iter().zip(strengths.iter().copied()).collect();
        let updates = Updates::sum(&list);
        let mut theirs = graph();
        let expected = by_hand(&list);
        theirs.bind(stored(&expected)).unwrap();
        let expected = run(theirs, &expected);

        let mut beside = weights(DType::F32, DType::F32);
        let bound = updates.bind(&graph(), stored(&beside)).unwrap();
        updates.add_to(&mut beside);
        let d = off(&run(bound, &beside), &expected);
        assert!(d < 1e-5, "{strengths:?}: beside differs by {d}");

        let mut merged = weights(DType::F32, DType::F32);
        assert!(updates.clone().merge(&cpu, &mut merged).unwrap().is_empty());
        let mut bound = graph();
        bound.bind(stored(&merged)).unwrap();
        let d = off(&run(bound, &merged), &expected);
        assert!(d < 1e-5, "{strengths:?}: merged differs by {d}");

        // Half the digits, half the exactness.
        for (dtype, close) in [(DType::F16, 2e-3), (DType::BF16, 1.5e-2)] {
            let mut halves = weights(dtype, dtype);
            updates.clone().merge(&cpu, &mut halves).unwrap();
            assert_eq!(halves.get("line.weight").unwrap().dtype, dtype);
            let mut bound = graph();
            bound.bind(stored(&halves)).unwrap();
            let d = off(&run(bound, &halves), &expected);
            assert!(d < close, "{strengths:?}: in {dtype} it differs by {d}");
        }
    }
}

#[test]
fn quantized_weights_stay_and_have_their_updates_beside() {
    let files = files();
    let updates = Updates::sum(&[(&files[0], 0.7), (&files[1], 0.4)]);
    let mut mixed = weights(DType::Q4_0, DType::F32);
    let cpu = Cpu::new(2, Precision::Exact);
    let left = updates.merge(&cpu, &mut mixed).unwrap();
    assert!(left.bytes() > 0 && mixed.get("line.weight").unwrap().dtype == DType::Q4_0);
    let bound = left.bind(&graph(), stored(&mixed)).unwrap();
    assert!(bound.weight("line.lora_A.weight").is_some() && bound.weight("conv.lora_A.weight").is_none());
    left.add_to(&mut mixed);
    let ours = run(bound, &mixed);

    // The same numbers as F32, merged.
    let mut plain = weights(DType::F32, DType::F32);
    let mut values = vec![0.0; OUT * IN];
    DType::Q4_0.decode(mixed.get("line.weight").unwrap().bytes(), &mut values);
    plain.insert("line.weight", Tensor::from_f32(&values).unwrap());
    Updates::sum(&[(&files[0], 0.7), (&files[1], 0.4)]).merge(&cpu, &mut plain).unwrap();
    let mut bound = graph();
    bound.bind(stored(&plain)).unwrap();
    assert!(off(&ours, &run(bound, &plain)) < 1e-5);
}

#[test]
fn an_update_that_nothing_reads_is_an_error() {
    let update = Update { a: factor(&[OUT], 3, DType::F32), ..plain(1.0) };
    let map = Map::from([("line.bias".to_string(), update.clone())]);
    let updates = Updates::sum(&[(&map, 1.0)]);
    let weights = weights(DType::Q8_0, DType::F32);
    let e = updates.bind(&graph(), stored(&weights)).unwrap_err().to_string();
    assert!(e.contains("a LoRA changes line.bias, which is read by no linear layer"), "{e}");
    let map = Map::from([("gone.weight".to_string(), update.clone())]);
    let cpu = Cpu::new(1, Precision::Exact);
    let mut weights = weights;
    let e = Updates::sum(&[(&map, 1.0)]).merge(&cpu, &mut weights).unwrap_err().to_string();
    assert!(e.contains("gone.weight, which the model does not have"), "{e}");
    let map = Map::from([("conv.weight".to_string(), update)]);
    let e = Updates::sum(&[(&map, 1.0)]).merge(&cpu, &mut weights).unwrap_err().to_string();
    assert!(e.contains("and the weight has others"), "{e}");
    assert!(Updates::sum(&[(&map, 0.0)]).is_empty());
    let zero = Update { a: Factor::from_f32(vec![OUT], &[0.0; OUT]), ..plain(1.0) };
    assert!(Updates::sum(&[(&Map::from([("line.bias".to_string(), zero)]), 1.0)]).is_empty());
}

#[test]
fn doras_are_what_peft_and_lycoris_make_of_weights() {
    let base = Arrays::open("dora", "weights");
    let golden = Arrays::open("dora", "golden");
    let names = [
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", vec![7, 10]),
        ("down_blocks.0.resnets.0.conv1.weight", vec![6, 4, 3, 3]),
    ];
    let shapes: BTreeMap<String, Vec<usize>> =
        names.iter().map(|(n, s)| (n.to_string(), s.clone())).collect();
    let part = Part { role: Role::Denoiser, weights: &shapes, shift_first: false };
    let open = |file: &str| Lora::open(&folder("dora").join(format!("{file}.safetensors")), &[part]).unwrap();
    let cpu = Cpu::new(2, Precision::Exact);
    let fresh = |dtype| {
        let mut weights = Weights::default();
        names.iter().for_each(|(name, _)| weights.insert(name, encoded(dtype, &base.get(name))));
        weights
    };
    let strength = facts("dora")["strength"].as_f64().unwrap() as f32;
    for (file, rows, strength) in
        [("peft", true, 1.0), ("inputs", false, strength), ("outputs", true, strength)]
    {
        let lora = open(file);
        let mut weights = fresh(DType::F32);
        assert!(
            lora.parts[0].values().all(|u| u.magnitude.as_ref().is_some_and(|m| m.rows == rows)),
            "{file}"
        );
        assert!(Updates::sum(&[(&lora.parts[0], strength)]).merge(&cpu, &mut weights).unwrap().is_empty());
        for (name, _) in &names {
            let mut merged = vec![0.0; base.get(name).len()];
            DType::F32.decode(weights.get(name).unwrap().bytes(), &mut merged);
            let d = off(&merged, &golden.get(&format!("{file}/{name}")));
            assert!(d < 1e-5, "{file}: {name} differs by {d}");
        }
    }

    // After a plain one, as if that were merged before; and none beside quantized weights.
    let dora = open("outputs");
    let plain = Map::from([(
        names[0].0.to_string(),
        Update { a: factor(&[2, 10], 3, DType::F32), b: Some(factor(&[7, 2], 4, DType::F32)), ..plain(0.5) },
    )]);
    let (mut both, mut apart) = (fresh(DType::F32), fresh(DType::F32));
    Updates::sum(&[(&dora.parts[0], 0.6), (&plain, 1.0)]).merge(&cpu, &mut both).unwrap();
    Updates::sum(&[(&plain, 1.0)]).merge(&cpu, &mut apart).unwrap();
    Updates::sum(&[(&dora.parts[0], 0.6)]).merge(&cpu, &mut apart).unwrap();
    let bytes = |w: &Weights| w.get(names[0].0).unwrap().bytes().to_vec();
    assert!(bytes(&both) == bytes(&apart) && bytes(&both) != bytes(&fresh(DType::F32)));
    let mut eights = Weights::default();
    let line = encoded(DType::F16, &base.get(names[0].0));
    eights.insert(names[0].0, line);
    eights.insert(names[1].0, Tensor::shared(DType::F8_E5M2, Arc::new(vec![0; 216]), 0..216));
    let e = Updates::sum(&[(&dora.parts[0], 1.0)]).merge(&cpu, &mut eights).unwrap_err().to_string();
    assert!(e.contains("DoRA") && e.contains("F8_E5M2"), "{e}");
}
