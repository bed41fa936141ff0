use super::walk::Named;
use super::*;
use crate::diffuse::noise::{Noise, Source};
use crate::lora::Updates;
use hob_cpu::Precision;
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// A model whose autoencoder has weights by chance, of three levels with odd numbers of channels.
fn model(folder: &Path) -> (Config, Arc<Pipeline>) {
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pipeline/sd15");
    copy_folder(&given, folder);
    let config = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [6, 9, 12], "layers_per_block": 2, "norm_num_groups": 3,
        "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    });
    let vae = Config::parse(&config).unwrap();
    let mut noise = Noise::new(Source::TorchCpu, 3);
    let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
    for graph in [vae.encoder(1, 16, 16).unwrap(), vae.decoder(1, 4, 4).unwrap()] {
        for weight in &graph.weights {
            let begin = bytes.len();
            let (dims, n) = (weight.shape.to_vec(), weight.shape.count());
            // Means far from zero, as trained ones have.
            let scale = (dims[1..].iter().product::<usize>() as f32).sqrt().recip();
            let shift = if dims.len() == 1 { 0.7 } else { 0.0 };
            bytes.extend(noise.randn(n).iter().flat_map(|x| (x * scale + shift).to_le_bytes()));
            header.insert(
                weight.name.clone(),
                json!({"dtype": "F32", "shape": dims, "data_offsets": [begin, bytes.len()]}),
            );
        }
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes].concat();
    std::fs::write(folder.join("vae/config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("vae/diffusion_pytorch_model.safetensors"), file).unwrap();
    (vae, Arc::new(Pipeline::open(folder).unwrap()))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

struct Bench {
    _folder: tempfile::TempDir,
    vae: Config,
    network: Network,
    cpu: Cpu,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (vae, pipeline) = model(folder.path());
    let cpu = Cpu::new(2, Precision::Exact);
    let network = Network::new(&pipeline, Role::Vae, &Updates::default(), &cpu).unwrap();
    Bench { _folder: folder, vae, network, cpu }
}

impl Bench {
    fn run(&mut self, way: &Way, numbers: &[f32]) -> Named {
        let mut walk = Walk { vae: &self.vae, network: &mut self.network, cpu: &self.cpu, on: &mut || true };
        walk.go(way, numbers).unwrap().unwrap()
    }

    /// A way of parts that end after these steps, the first or last of which sees the whole picture.
    fn way(&self, side: Side, size: [usize; 2], ends: &[usize], tile: [usize; 2]) -> Way {
        let steps = self.vae.groups(side).concat();
        let (mut from, mut at, mut parts) = (0, size, Vec::new());
        for &end in ends {
            let steps = &steps[from..end];
            let whole = steps.iter().any(|s| s.is_whole());
            parts.push(Part { steps: steps.to_vec(), size: at, tile: (!whole).then_some(tile) });
            (from, at) = (end, scaled(steps, at));
        }
        assert_eq!(from, steps.len());
        Way { side, parts, work: 0, products: 0.0 }
    }
}

fn near(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (name, x) in a {
        let (_, y) = b.iter().find(|(n, _)| n == name).expect(name);
        let most = y.iter().fold(0.0f32, |m, y| m.max(y.abs()));
        let off = x.iter().zip(y).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
        assert!(x.len() == y.len() && off <= 1e-4 * most && most > 0.1, "{what}: {off} of {most}");
    }
}

#[test]
fn tiles_make_the_picture_that_is_made_at_once() {
    let mut bench = bench();
    for (side, size) in [(Side::Decoder, [9, 13]), (Side::Encoder, [36, 52])] {
        let n = bench.vae.groups(side).concat().len();
        let channels = if side == Side::Decoder { 4 } else { 3 };
        let numbers = Noise::new(Source::TorchCpu, 1).randn(channels * size[0] * size[1]);
        let whole = bench.run(&Way::whole(&bench.vae, side, size), &numbers);
        let groups: Vec<usize> = (bench.vae.groups(side).iter())
            .scan(0, |at, g| {
                *at += g.len();
                Some(*at)
            })
            .collect();
        let (each, pairs) = ((1..=n).collect::<Vec<_>>(), (1..=n).step_by(2).chain([n]).collect::<Vec<_>>());
        let mut cuts = [each, pairs, groups];
        if side == Side::Decoder {
            cuts[2].insert(0, 1); // the beginning sees the whole picture; the rest of its level need not
        } else {
            cuts.iter_mut().for_each(|c| c.insert(c.len() - 1, n - 1));
        }
        for mut ends in cuts {
            ends.sort();
            ends.dedup();
            for tile in [[8, 8], [14, 30], [6, 200], [100, 100]] {
                let tiled = bench.run(&bench.way(side, size, &ends, tile), &numbers);
                near(&tiled, &whole, &format!("{side:?} cut at {ends:?} in {tile:?}"));
            }
        }
    }
}

#[test]
fn less_memory_means_more_work_and_the_same_picture() {
    let mut bench = bench();
    let size = [40, 48];
    let numbers = Noise::new(Source::TorchCpu, 1).randn(4 * size[0] * size[1]);
    let find = |bench: &Bench, bytes| {
        let search = Search { vae: &bench.vae, network: &bench.network, cpu: &bench.cpu };
        search.within(Side::Decoder, size, bytes).unwrap()
    };
    let whole = find(&bench, usize::MAX);
    assert!(whole.tiles() == 1 && whole.parts.len() == 1);
    let picture = bench.run(&whole, &numbers);
    let least = find(&bench, 0);
    assert!(least.work < whole.work / 2, "{} of {}", least.work, whole.work);
    let mut last: Option<Way> = None;
    for share in 0..6 {
        let bytes = least.work + (whole.work - least.work) * share / 5;
        let way = find(&bench, bytes);
        assert!(way.work <= bytes, "{} of {bytes}", way.work);
        assert!(last.is_none_or(|last| way.products <= last.products));
        near(&bench.run(&way, &numbers), &picture, &format!("{way:?}"));
        last = Some(way);
    }
    assert!(last.is_some_and(|last| last == whole));
}

#[test]
fn a_walk_ends_when_it_is_told() {
    let mut bench = bench();
    let n = bench.vae.groups(Side::Decoder).concat().len();
    let mut left = 7;
    let mut on = || {
        left -= 1;
        left > 0
    };
    let way = bench.way(Side::Decoder, [9, 13], &(1..=n).collect::<Vec<_>>(), [8, 8]);
    let mut walk = Walk { vae: &bench.vae, network: &mut bench.network, cpu: &bench.cpu, on: &mut on };
    assert!(walk.go(&way, &vec![0.1; 4 * 9 * 13]).unwrap().is_none());
    assert_eq!(left, 0);
}
