//! Pictures made larger: in tiles and whole, of every network and size.

use crate::golden::{Arrays, folder};
use hob_engine::diffuse::{Tiles, Upscaler};
use hob_engine::{Cpu, Precision};
use hob_io::Picture;
use hob_io::picture::Filter;

const ALL: [&str; 6] = ["x4", "x2", "x1", "old-x4", "old-x1", "compact-x4"];

fn open(name: &str) -> Upscaler {
    let path = folder("esrgan").join(name).join("model.safetensors");
    Upscaler::open(&path, Cpu::new(2, Precision::Exact)).unwrap()
}

fn picture(width: usize, height: usize) -> Picture {
    let at = |i: usize| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        ((x * 37 + y * 91 + c * 50 + x * y * 7) % 256) as u8
    };
    Picture::of_rgb(width, height, (0..3 * width * height).map(at).collect()).unwrap()
}

fn run(upscaler: &Upscaler, picture: &Picture, side: usize, context: usize) -> Picture {
    upscaler.upscale(picture, Tiles { side, context }, &mut |_, _| true).unwrap().unwrap()
}

fn difference(a: &Picture, b: &Picture) -> u8 {
    assert_eq!((a.width, a.height, a.rgb.len()), (b.width, b.height, b.rgb.len()));
    a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn a_picture_is_that_of_torch() {
    for name in ALL {
        let arrays = Arrays::open(&format!("esrgan/{name}"), "golden");
        let image = arrays.get("image");
        // Bytes are no more exact than a 510th, so the network is given what it would see of them.
        let bytes: Vec<u8> = image.iter().map(|x| (x * 255.0).round().clamp(0.0, 255.0) as u8).collect();
        let rgb = (0..96).flat_map(|i| [bytes[i], bytes[96 + i], bytes[192 + i]]).collect();
        let upscaler = open(name);
        let made = run(&upscaler, &Picture::of_rgb(12, 8, rgb).unwrap(), 256, 32);
        let out = arrays.get("out");
        let area = out.len() / 3;
        assert_eq!((made.width * made.height, made.width), (area, 12 * upscaler.scale()));
        let most = (0..3 * area).map(|i| {
            let wanted = out[i % 3 * area + i / 3].clamp(0.0, 1.0) * 255.0;
            (made.rgb[i] as f32 - wanted).abs()
        });
        let most = most.fold(0.0, f32::max);
        assert!(most < 8.0, "{name} differs by {most} of 255");
    }
}

#[test]
fn tiles_meet_without_a_seam() {
    // Sides that are no multiples of tiles, nor of what the networks want.
    let picture = picture(100, 75);
    for name in ALL {
        let upscaler = open(name);
        let whole = run(&upscaler, &picture, 4096, 32);
        let d = difference(&whole, &run(&upscaler, &picture, 24, 24));
        assert!(d <= 1, "{name} differs by {d}");
        let without = difference(&whole, &run(&upscaler, &picture, 24, 0));
        assert!(without > 1, "{name} does not need any context, so this tests nothing");
    }
}

#[test]
fn pictures_of_any_size_are_made_larger() {
    for (width, height) in [(1, 1), (1, 9), (7, 1), (5, 3), (33, 17)] {
        for name in ALL {
            let upscaler = open(name);
            let made = run(&upscaler, &picture(width, height), 16, 8);
            assert_eq!(
                (made.width, made.height),
                (width * upscaler.scale(), height * upscaler.scale()),
                "{name}"
            );
        }
    }
}

#[test]
fn alpha_is_kept() {
    let mut picture = picture(20, 10);
    let alpha: Vec<u8> = (0..200).map(|i| (i * 13 % 256) as u8).collect();
    picture.alpha = Some(alpha);
    let made = run(&open("x4"), &picture, 256, 32);
    let wanted = picture.resized(80, 40, Filter::Lanczos).unwrap();
    assert_eq!(made.alpha, wanted.alpha);
    assert_eq!(made.rgb, run(&open("x4"), &picture.opaque(), 256, 32).rgb);
}

#[test]
fn it_stops_when_asked_and_tells_how_far_it_is() {
    let (upscaler, picture) = (open("x2"), picture(40, 40));
    let mut heard = Vec::new();
    let tiles = Tiles { side: 16, context: 2 };
    let made = upscaler.upscale(&picture, tiles, &mut |done, all| {
        heard.push((done, all));
        done < 2
    });
    assert!(made.unwrap().is_none());
    assert_eq!(heard, [(0, 9), (1, 9), (2, 9)]);
}

#[test]
fn what_is_no_upscaler_is_said() {
    let said = |path: &std::path::Path| match Upscaler::open(path, Cpu::new(1, Precision::Exact)) {
        Ok(_) => panic!("{} is none", path.display()),
        Err(e) => e.to_string(),
    };
    let other = said(&folder("pipeline/sd15/vae/diffusion_pytorch_model.safetensors"));
    assert!(other.contains("no ESRGAN"), "{other}");
    let dir = tempfile::tempdir().unwrap();
    let pickle = dir.path().join("RealESRGAN_x4plus.pth");
    std::fs::write(&pickle, b"PK\x03\x04 and so on, as torch writes it").unwrap();
    let pickle = said(&pickle);
    assert!(pickle.contains("safetensors"), "{pickle}");
}
