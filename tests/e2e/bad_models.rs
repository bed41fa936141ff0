//! Sound files with models in them that cannot be: each ends with a sentence.

use crate::common::{World, noise};
use crate::spent::{refuses, spent, survives};
use crate::tiny::{EXPERTS, FFN, HIDDEN, LAYERS, Meta, TEMPLATE, Tiny, VOCAB};
use hob_dtype::DType;
use std::io::Write;
use std::process::Stdio;

/// Writes the model as the closure changes it, and expects `hob run` to refuse it so.
#[track_caller]
fn spoiled(spoil: impl FnOnce(&mut Tiny), why: &str) {
    spoiled_of(Tiny::llama(), spoil, why);
}

#[track_caller]
fn spoiled_of(mut tiny: Tiny, spoil: impl FnOnce(&mut Tiny), why: &str) {
    let world = World::new();
    spoil(&mut tiny);
    let path = tiny.write(&world, "bad");
    refuses(&world, &run(path.to_str().unwrap()), why);
    // What can be looked at is shown, or refused as well.
    survives(&world, &["show", path.to_str().unwrap()], why);
    survives(&world, &["debug", "graph", path.to_str().unwrap()], why);
}

fn run(path: &str) -> [&str; 7] {
    ["run", path, "hi", "--raw", "--temperature=0", "--max-tokens=4", "--threads=1"]
}

#[test]
fn weights_that_do_not_fit() {
    spoiled(|t| t.tensors.retain(|t| t.name != "blk.1.ffn_up.weight"), "model.layers.1.mlp.up_proj");
    spoiled(|t| t.tensors.retain(|t| t.name != "token_embd.weight"), "model.embed_tokens");
    spoiled(|t| t.tensors.retain(|t| t.name != "output_norm.weight"), "model.norm");
    spoiled(|t| t.tensors.clear(), "bad.gguf");
    spoiled(|t| t.tensor("blk.0.attn_q.weight").shape = vec![32, 128], "model.layers.0.self_attn.q_proj");
    spoiled(|t| t.tensor("output_norm.weight").shape = vec![8, 8], "model.norm");
    spoiled(|t| t.tensor("output_norm.weight").shape = vec![], "bad.gguf");
    spoiled(|t| t.tensor("output_norm.weight").shape = vec![0], "bad.gguf");
    spoiled(|t| t.tensor("output_norm.weight").shape = vec![1 << 62, 1 << 62], "bad.gguf");
    spoiled(|t| t.tensor("output_norm.weight").shape = vec![1; 5], "bad.gguf");
    spoiled(|t| t.tensor("output_norm.weight").ggml = 4, "bad.gguf"); // Q4_2, withdrawn
    spoiled(|t| t.tensor("output_norm.weight").ggml = 9999, "9999");
    spoiled(|t| t.tensor("output_norm.weight").name = "blk.0.attn_q.weight".into(), "blk.0.attn_q.weight");
    spoiled(|t| t.weight("output.weight", DType::F32, &[VOCAB + 1, 64]), "lm_head");
}

#[test]
fn configurations_that_cannot_be() {
    let set = |key: &'static str, value: Meta| move |t: &mut Tiny| t.set(&format!("llama.{key}"), value);
    spoiled(set("attention.head_count", Meta::U32(0)), "num_attention_heads");
    spoiled(set("attention.head_count", Meta::U32(3)), "bad.gguf");
    spoiled(set("attention.head_count", Meta::U32(u32::MAX)), "bad.gguf");
    spoiled(set("attention.head_count_kv", Meta::U32(0)), "num_key_value_heads");
    spoiled(set("attention.head_count_kv", Meta::U32(3)), "bad.gguf");
    spoiled(set("attention.key_length", Meta::U32(15)), "bad.gguf");
    spoiled(set("attention.key_length", Meta::U32(0)), "head_dim");
    spoiled(set("block_count", Meta::U32(0)), "num_hidden_layers");
    spoiled(set("block_count", Meta::U64(1 << 40)), "block_count");
    spoiled(set("block_count", Meta::U32(100_000)), "it has 21 tensors for 100000 layers");
    spoiled(set("block_count", Meta::F32(2.5)), "bad.gguf");
    spoiled(set("block_count", Meta::Str("two".into())), "bad.gguf");
    spoiled(set("embedding_length", Meta::U32(0)), "hidden_size");
    spoiled(set("embedding_length", Meta::U64(u64::MAX)), "bad.gguf");
    spoiled(set("feed_forward_length", Meta::U64(1 << 63)), "bad.gguf");
    spoiled(set("feed_forward_length", Meta::I32s(vec![128, 256])), "bad.gguf");
    spoiled(set("context_length", Meta::U32(0)), "max_position_embeddings");
    for eps in [f32::NAN, f32::INFINITY, -1.0] {
        spoiled(set("attention.layer_norm_rms_epsilon", Meta::F32(eps)), "bad.gguf");
    }
    for base in [f32::NAN, 0.0, -10_000.0] {
        spoiled(set("rope.freq_base", Meta::F32(base)), "bad.gguf");
    }
    spoiled(set("expert_count", Meta::U32(8)), "num_local_experts");
    spoiled(set("rope.dimension_count", Meta::U32(8)), "partial_rotary_factor");
    spoiled(|t| t.unset("llama."), "bad.gguf");
    spoiled(|t| t.unset("general.architecture"), "do not name the architecture");
    spoiled(|t| t.set("general.architecture", Meta::Str("warp-drive".into())), "warp-drive is not supported");
}

#[test]
fn experts_that_do_not_fit() {
    let spoiled = |spoil: &dyn Fn(&mut Tiny), why: &str| spoiled_of(Tiny::mixtral(), spoil, why);
    let experts = "model.layers.1.block_sparse_moe.experts";
    spoiled(&|t| t.tensors.retain(|t| t.name != "blk.1.ffn_up_exps.weight"), &format!("{experts}.w3"));
    spoiled(
        &|t| t.tensors.retain(|t| t.name != "blk.1.ffn_gate_inp.weight"),
        "model.layers.1.block_sparse_moe.gate",
    );
    let shape =
        |shape: [usize; 3]| move |t: &mut Tiny| t.weight("blk.1.ffn_down_exps.weight", DType::Q8_0, &shape);
    spoiled(&shape([EXPERTS - 1, HIDDEN, FFN]), &format!("{experts}.w2"));
    spoiled(&shape([EXPERTS, FFN, HIDDEN]), &format!("{experts}.w2"));
    for (count, used, why) in [
        (4, 5, "num_experts_per_tok is 5"),
        (4, 0, "num_experts_per_tok is 0"),
        (u32::MAX, 2, "num_local_experts"),
    ] {
        let set = |t: &mut Tiny| {
            t.set("llama.expert_count", Meta::U32(count));
            t.set("llama.expert_used_count", Meta::U32(used));
        };
        spoiled(&set, why);
    }
    spoiled(&|t| t.set("llama.expert_count", Meta::U32(5)), "block_sparse_moe");
}

#[test]
fn experts_run() {
    let world = World::new();
    let mut tiny = Tiny::mixtral();
    let path = tiny.write(&world, "experts");
    assert!(!world.run(&run(path.to_str().unwrap())).ok().is_empty());
    let mapped = [&run(path.to_str().unwrap())[..], &["--mapped"]].concat();
    assert!(!world.run(&mapped).ok().is_empty());
    let plan = world.run(&["debug", "plan", path.to_str().unwrap()]).ok().to_string();
    assert!(plan.contains("experts(Silu)") && plan.contains("top_k(2)"), "{plan}");
    // A router of no numbers chooses whom it likes.
    tiny.tensor("blk.0.ffn_gate_inp.weight").bytes.fill(0xff);
    let path = tiny.write(&world, "nan");
    survives(&world, &run(path.to_str().unwrap()), "a router of NaN");
}

/// Heads of an odd width cannot be rotated in pairs, even where all weights agree with it.
#[test]
fn an_odd_head_is_refused() {
    let odd = |t: &mut Tiny| {
        t.set("llama.attention.key_length", Meta::U32(15));
        for (name, shape) in [("q", [60, 64]), ("k", [30, 64]), ("v", [30, 64]), ("output", [64, 60])] {
            t.weight(&format!("blk.0.attn_{name}.weight"), DType::F32, &shape);
            t.weight(&format!("blk.1.attn_{name}.weight"), DType::F32, &shape);
        }
    };
    spoiled(odd, "odd width 15");
}

#[test]
fn a_context_beyond_all_memory_is_refused() {
    let world = World::new();
    let mut tiny = Tiny::llama();
    tiny.set("llama.context_length", Meta::U64(u64::MAX / 2));
    let path = tiny.write(&world, "vast");
    let path = path.to_str().unwrap();
    assert!(
        !world.run(&run(path)).ok().is_empty(),
        "as long as nobody asks for it, a vast context is no harm"
    );
    for ctx in ["1000000000000", "4611686018427387903", "18446744073709551615"] {
        let args = [&run(path)[..], &["--ctx", ctx]].concat();
        refuses(&world, &args, "memory");
    }
}

#[test]
fn tokenizers_that_do_not_fit() {
    spoiled(|t| t.unset("tokenizer."), "bad.gguf");
    spoiled(|t| t.set("tokenizer.ggml.model", Meta::Str("rwkv".into())), "\"rwkv\"");
    spoiled(|t| t.set("tokenizer.ggml.model", Meta::Str("bert".into())), "no token that begins a text");
    spoiled(|t| t.unset("tokenizer.ggml.merges"), "merges");
    spoiled(|t| t.set("tokenizer.ggml.eos_token_id", Meta::U32(259)), "259");
    spoiled(|t| t.set("tokenizer.ggml.token_type", Meta::I32s(vec![1; 3])), "token types");
    spoiled(|t| t.set("tokenizer.ggml.tokens", Meta::I32s(vec![1; VOCAB])), "bad.gguf");
    spoiled(|t| t.set("tokenizer.ggml.merges", Meta::Strs(vec!["no".into()])), "bad.gguf");
}

/// A tokenizer may know tokens that the model does not: they are a matter only where they are said.
#[test]
fn a_tokenizer_larger_than_the_embedding() {
    let world = World::new();
    let mut tiny = Tiny::llama();
    for name in ["token_embd.weight", "output.weight"] {
        tiny.weight(name, DType::Q8_0, &[128, 64]);
    }
    let path = tiny.write(&world, "small");
    let path = path.to_str().unwrap();
    let fine = world.run(&run(path));
    assert!(fine.stderr.contains("the tokenizer knows 259 tokens, the model 128"), "{fine:?}");
    fine.ok();
    let args = ["run", path, "é", "--raw", "--max-tokens=4"];
    world.run(&args).fails("is none of the model's 128");
}

/// Weights that are no numbers give nonsense, but they end.
#[test]
fn weights_full_of_nan_end() {
    let world = World::new();
    let mut tiny = Tiny::llama();
    tiny.tensors.iter_mut().for_each(|t| t.bytes.fill(0xff));
    let path = tiny.write(&world, "nan");
    let path = path.to_str().unwrap();
    survives(&world, &run(path), "greedy");
    survives(&world, &["run", path, "hi", "--max-tokens=4", "--seed=1", "--threads=2"], "by chance");
    survives(&world, &["bench", path, "pp8", "tg2"], "bench");
    let logits = world.path("logits.f32");
    survives(&world, &["debug", "logits", path, "--text=hi", "--out", logits.to_str().unwrap()], "logits");
}

/// Weights in every number format there is, whatever bits they hold: the model runs, or a sentence says why not.
#[test]
fn noise_in_every_format_ends() {
    let world = World::new();
    let mut ran = 0;
    for (dtype, number) in DType::all().filter_map(|d| Some((d, d.ggml()?))) {
        let mut tiny = Tiny::llama();
        tiny.set("llama.feed_forward_length", Meta::U32(256));
        for i in 0..LAYERS {
            tiny.weight(&format!("blk.{i}.ffn_gate.weight"), DType::F16, &[256, HIDDEN]);
            tiny.weight(&format!("blk.{i}.ffn_up.weight"), DType::F16, &[256, HIDDEN]);
            tiny.weight(&format!("blk.{i}.ffn_down.weight"), DType::F16, &[HIDDEN, 256]);
        }
        // All that it can hold by the length of their rows.
        for t in &mut tiny.tensors {
            if (*t.shape.last().unwrap() as usize).is_multiple_of(dtype.block()) {
                let values = t.shape.iter().product::<u64>() as usize;
                t.ggml = number;
                t.bytes = noise(dtype.bytes(values).unwrap(), values as u64);
            }
        }
        let path = tiny.write(&world, "noise");
        ran += survives(&world, &run(path.to_str().unwrap()), &dtype.to_string()) as u32;
    }
    assert!(ran > 20, "{ran} formats ran");
}

#[test]
fn templates_that_fail_are_noted_and_replaced() {
    let world = World::new();
    let endless = "{% for a in range(9999999) %}{% for b in range(9999999) %}x{% endfor %}{% endfor %}";
    for (template, note) in [
        ("{% for", true),
        ("{{ nothing.at.all }}", true),
        ("{{ messages[99].content }}", true),
        (endless, true),
        (TEMPLATE, false),
    ] {
        let mut tiny = Tiny::llama();
        tiny.set("tokenizer.chat_template", Meta::Str(template.into()));
        let path = tiny.write(&world, "template");
        let spent = spent(&mut world.command(&["run", path.to_str().unwrap(), "hi", "--max-tokens=4"]));
        spent.run.ok();
        let lines: Vec<&str> = spent.run.stderr.lines().collect();
        let noted = matches!(lines[..], [line] if line.starts_with("hob: ") && line.contains("template"));
        assert_eq!(noted, note, "{template}: {spent:?}");
        assert!(spent.peak < 200 << 20, "{template}: {spent:?}");
    }
    // One that refuses the conversation is obeyed.
    let mut tiny = Tiny::llama();
    let refusal = "{{ raise_exception('only haikus are answered') }}";
    tiny.set("tokenizer.chat_template", Meta::Str(refusal.into()));
    let path = tiny.write(&world, "haiku");
    refuses(&world, &["run", path.to_str().unwrap(), "hi"], "only haikus are answered");
}

#[test]
fn text_that_cannot_be_read_or_written() {
    let world = World::new();
    let path = Tiny::llama().write(&world, "tiny");
    let path = path.to_str().unwrap();
    // Not UTF-8, by pipe and as an argument.
    let mut child = world.command(&["run", path, "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"caf\xe9").unwrap();
    crate::common::Run::from(child.wait_with_output().unwrap()).fails("is not UTF-8 text");
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut command = world.command(&["run", path]);
        let run = spent(command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9"))).run;
        assert!(run.code == Some(2) && run.stderr.contains("UTF-8"), "{run:?}");
    }
    // Longer than the context.
    refuses(
        &world,
        &["run", path, &"x".repeat(600), "--raw"],
        "the text has 600 tokens, 88 more than the context of 512",
    );
    refuses(&world, &["run", path, "0123456789", "--raw", "--ctx=8"], "2 more than the context of 8");
    for threads in ["0", "1025", "99999999999"] {
        let run = world.run(&["run", path, "hi", "--threads", threads]);
        assert!(run.code == Some(2) && run.stderr.contains("from 1 to 1024"), "{run:?}");
    }
    refuses(&world, &["debug", "logits", path, "--text=", "--out=x"], "the text has no tokens");
    // A disk that is full.
    #[cfg(target_os = "linux")]
    for args in [&run(path)[..], &["run", path, "hi", "--json"], &["show", path], &["bench", path, "pp4"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let run = world.command(args).stdout(full).output().unwrap();
        crate::common::Run::from(run).fails("o space left on device");
    }
    // A folder that is not there, a folder in place of a file, a path below a file.
    for out in ["nowhere/x.f32", ".", &format!("{path}/x.f32")] {
        refuses(&world, &["debug", "logits", path, "--text=hi", "--out", out], "cannot write");
    }
    let left = crate::common::files(world.dir.path());
    assert_eq!(left, ["tiny.gguf"], "nothing half-written is left");
}
