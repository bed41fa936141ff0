//! Values and gradients of single ops as torch has them (tests/golden/ops, made by dev/golden_ops.py).

use crate::harness::{Row, assert_close, reference, row};
use hob_cpu::{Cpu, Precision};
use hob_graph::op::{Act, Attend, RopeStyle, Unary, Window};
use hob_graph::{Builder, X};
use hob_io::Safetensors;
use serde_json::Value;
use std::path::Path;

/// Dimensions and numbers of the golden's arrays.
struct Arrays(Safetensors);

impl Arrays {
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let t = self.0.tensors().iter().find(|t| t.stored_name == name);
        let t = t.unwrap_or_else(|| panic!("the golden has no {name}"));
        let mut values = vec![0.0; t.elements()];
        t.dtype.decode(self.0.bytes(t), &mut values);
        (t.shape.clone(), values)
    }
}

#[test]
fn values_and_gradients_are_torchs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ops");
    let facts: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let arrays = Arrays(Safetensors::open(&folder.join("golden.safetensors")).unwrap());
    let ops = facts["ops"].as_array().unwrap();
    assert!(ops.len() > 40);
    for case in ops {
        let name = case["name"].as_str().unwrap();
        let operands: Vec<(String, Vec<usize>, Vec<f32>)> = case["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|operand| {
                let operand = operand.as_str().unwrap();
                let (dims, values) = arrays.get(&format!("{name}.{operand}"));
                // Layers find their weights by a path.
                let in_graph = match operand {
                    "w" if case["op"] != "gather" => "p.weight",
                    "b" => "p.bias",
                    _ => operand,
                };
                (in_graph.to_string(), dims, values)
            })
            .collect();
        let (_, out) = arrays.get(&format!("{name}.out"));
        let (_, seed) = arrays.get(&format!("{name}.seed"));
        let row = golden_row(name, case, operands.iter().map(|o| (o.0.clone(), o.1.clone())).collect());
        let (graph, weights) = (row.loss_by(seed), operands.iter().map(|o| (o.0.clone(), o.2.clone())));
        let weights: Vec<(String, Vec<f32>)> = weights.collect();
        let wrt: Vec<&str> = operands.iter().map(|o| o.0.as_str()).collect();
        let slopes = hob_graph::grad(&graph, "loss", &wrt).unwrap();
        for cpu in [reference(), Cpu::new(1, Precision::Exact), Cpu::new(2, Precision::Exact)] {
            let ours = row.run(&cpu, &graph, &weights).remove(0);
            assert_close(&format!("{name}, by torch"), &ours, &out, 2e-6);
            let all = row.run(&cpu, &slopes, &weights);
            for ((output, _), ours) in slopes.outputs.iter().zip(&all) {
                if let Some(operand) = output.strip_prefix("grad:") {
                    let operand = match operand {
                        "p.weight" => "w",
                        "p.bias" => "b",
                        _ => operand,
                    };
                    let (_, theirs) = arrays.get(&format!("{name}.grad.{operand}"));
                    assert_close(&format!("{name}, gradient of {operand} by torch"), ours, &theirs, 1e-5);
                }
            }
        }
    }
}

/// The row of the table that a golden case describes, with operands of the given names and dimensions.
fn golden_row(name: &str, case: &Value, operands: Vec<(String, Vec<usize>)>) -> Row {
    let op = case["op"].as_str().unwrap().to_string();
    let attrs = case["attrs"].clone();
    let number = |key: &str| attrs[key].as_f64().map(|v| v as f32);
    let whole = |key: &str| attrs[key].as_u64().map(|v| v as usize);
    let list = |key: &str| -> Option<Vec<i64>> {
        attrs[key].as_array().map(|a| a.iter().map(|v| v.as_i64().unwrap()).collect())
    };
    let ints = |key: &str| list(key).map(|l| l.iter().map(|&i| i as i32).collect::<Vec<i32>>());

    let ids = ints("ids").or(ints("targets"));
    let past = whole("past").unwrap_or(0);
    let seqs: Vec<(usize, usize)> = match op.as_str() {
        "rope" => list("positions").unwrap().iter().map(|&p| (p as usize, 1)).collect(),
        "attend" => match list("lengths") {
            Some(lengths) => lengths.iter().map(|&n| (0, n as usize)).collect(),
            None => vec![(0, operands[1].1[0])],
        },
        _ => Vec::new(),
    };
    let how = Attend {
        scale: number("scale").unwrap_or(1.0),
        window: whole("window"),
        softcap: number("softcap"),
        causal: attrs["causal"].as_bool().unwrap_or(true),
        cache: None,
    };
    let window = Window {
        kernel: whole("kernel").unwrap_or(1) as u8,
        stride: whole("stride").unwrap_or(1) as u8,
        padding: whole("padding").unwrap_or(0) as u8,
    };
    let act = if attrs["act"] == "silu" { Act::Silu } else { Act::GeluTanh };
    let style = if attrs["style"] == "halves" { RopeStyle::Halves } else { RopeStyle::Pairs };
    let (theta, mscale) = (attrs["theta"].as_f64().unwrap_or(1.0), number("mscale").unwrap_or(1.0));
    let (eps, offset) = (number("eps").unwrap_or(0.0), number("offset").unwrap_or(0.0));
    let (groups, factor) = (whole("groups").unwrap_or(1), whole("factor").unwrap_or(1));

    let row = row(name, move |g: &Builder| {
        let x: Vec<X> = operands.iter().map(|(name, dims)| g.weight(name, dims)).collect();
        let p = g.path("p");
        match op.as_str() {
            "neg" => -x[0],
            "exp" => x[0].exp(),
            "sin" => x[0].unary(Unary::Sin),
            "cos" => x[0].unary(Unary::Cos),
            "tanh" => x[0].tanh(),
            "sigmoid" => x[0].unary(Unary::Sigmoid),
            "erf" => x[0].unary(Unary::Erf),
            "relu" => x[0].relu(),
            "log" => x[0].log(),
            "sqrt" => x[0].sqrt(),
            "recip" => x[0].recip(),
            "silu" => x[0].act(Act::Silu),
            "gelu" => x[0].act(Act::Gelu),
            "gelu_tanh" => x[0].act(Act::GeluTanh),
            "add" => x[0] + x[1],
            "sub" => x[0] - x[1],
            "mul" => x[0] * x[1],
            "div" => x[0] / x[1],
            "glu" => x[0].glu(act, x[1]),
            "matmul" => x[0].matmul(x[1]),
            "linear" if x.len() == 2 => x[0].linear(p, x[1].dim(0)),
            "linear" => x[0].linear_bias(p, x[1].dim(0)),
            "gather" => x[0].gather(g.ids()),
            "softmax" => x[0].softmax(),
            "rms_norm" => x[0].rms_norm(p, eps, offset),
            "layer_norm" => x[0].layer_norm(p, eps),
            "group_norm" => x[0].group_norm(p, groups, eps),
            "cross_entropy" => x[0].cross_entropy(g.ids()),
            "rope" => {
                let half = x[0].dim(2) / 2;
                let f = (0..half).map(|i| theta.powf(-(i as f64) / half as f64) as f32).collect();
                x[0].rope(g.constant(f), style, mscale)
            }
            // Queries of the last T tokens alone: the others are given as zeros, and not looked at.
            "attend" if past > 0 => x[0].pad(0, past, 0).attend(x[1], x[2], how).slice(0, past, x[0].dim(0)),
            "attend" => x[0].attend(x[1], x[2], how),
            "conv2d" => x[0].conv2d(p, x[1].dim(0), window, x.len() == 3),
            "upsample" => x[0].upsample(factor),
            _ => panic!("the golden has an op {op}"),
        }
    });
    let row = if seqs.is_empty() { row } else { row.seqs(&seqs) };
    match ids {
        Some(ids) => row.ids("ids", &ids),
        None => row,
    }
}
