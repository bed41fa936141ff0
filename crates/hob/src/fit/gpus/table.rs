//! The table of [`super::GPUS`]: key, name, GiB as sold, GB/s, dense TFLOP/s of f16 in matrix units with sums in f32 (what
//! the data sheets call tensor, matrix or XMX performance, without sparsity), or those of f32 where there are none.
//!
//! Of GeForce cards that is twice the rate of f32 since Ampere and four times on Turing, of RTX workstation cards four
//! times. Checked against TechPowerUp's database of 2025-12 (memory and bandwidth).

use super::{Gpu, Kind, Kind::*};

const GEFORCE: &str = "NVIDIA's GeForce specifications and architecture white papers";
const RTX_PRO: &str = "NVIDIA's data sheets of RTX workstation cards";
const SERVER: &str = "NVIDIA's data centre data sheets";
const JETSON: &str = "NVIDIA's DGX Spark and Jetson data sheets";
const AMD: &str = "AMD's product specifications";
const INTEL: &str = "Intel's Arc specifications";
const APPLE: &str = "Apple's technical specifications; TFLOP/s of the most cores, as measured by others";

const fn gpu(
    key: &'static str,
    name: &'static str,
    gib: f64,
    gbps: f64,
    tflops: f64,
    kind: Kind,
    source: &'static str,
) -> Gpu {
    let memory_bytes = (gib * (1u64 << 30) as f64) as u64;
    Gpu { key, name, memory_bytes, bandwidth_gbps: gbps, tflops, matrix_units: true, kind, source }
}

impl Gpu {
    /// Without matrix units.
    const fn in_f32(self) -> Gpu {
        Gpu { matrix_units: false, ..self }
    }
}

const fn geforce(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib, gbps, tflops, Card, GEFORCE)
}

const fn rtx_pro(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib, gbps, tflops, Card, RTX_PRO)
}

const fn server(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib, gbps, tflops, Server, SERVER)
}

/// A server's card whose memory corrects errors in band: a sixteenth of it holds the checks.
const fn checked(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib * 15.0 / 16.0, gbps, tflops, Server, SERVER)
}

const fn amd(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64, kind: Kind) -> Gpu {
    gpu(key, name, gib, gbps, tflops, kind, AMD)
}

const fn intel(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib, gbps, tflops, Card, INTEL)
}

const fn apple(key: &'static str, name: &'static str, gib: f64, gbps: f64, tflops: f64) -> Gpu {
    gpu(key, name, gib, gbps, tflops, Unified, APPLE)
}

#[rustfmt::skip]
pub(super) const TABLE: &[Gpu] = &[
    // GeForce 10 and 16, without matrix units
    geforce("gtx1050ti", "NVIDIA GeForce GTX 1050 Ti", 4.0, 112.1, 2.1).in_f32(),
    geforce("gtx1060-3", "NVIDIA GeForce GTX 1060 3 GB", 3.0, 192.2, 3.9).in_f32(),
    geforce("gtx1060", "NVIDIA GeForce GTX 1060 6 GB", 6.0, 192.2, 4.4).in_f32(),
    geforce("gtx1070", "NVIDIA GeForce GTX 1070", 8.0, 256.3, 6.5).in_f32(),
    geforce("gtx1070ti", "NVIDIA GeForce GTX 1070 Ti", 8.0, 256.3, 8.2).in_f32(),
    geforce("gtx1080", "NVIDIA GeForce GTX 1080", 8.0, 320.3, 8.9).in_f32(),
    geforce("gtx1080ti", "NVIDIA GeForce GTX 1080 Ti", 11.0, 484.4, 11.3).in_f32(),
    geforce("gtx1650", "NVIDIA GeForce GTX 1650", 4.0, 128.1, 3.0).in_f32(),
    geforce("gtx1650super", "NVIDIA GeForce GTX 1650 Super", 4.0, 192.0, 4.4).in_f32(),
    geforce("gtx1660", "NVIDIA GeForce GTX 1660", 6.0, 192.1, 5.0).in_f32(),
    geforce("gtx1660super", "NVIDIA GeForce GTX 1660 Super", 6.0, 336.0, 5.0).in_f32(),
    geforce("gtx1660ti", "NVIDIA GeForce GTX 1660 Ti", 6.0, 288.0, 5.4).in_f32(),
    geforce("titanxp", "NVIDIA TITAN Xp", 12.0, 547.6, 12.2).in_f32(),
    geforce("titanv", "NVIDIA TITAN V", 12.0, 651.3, 110.0),
    geforce("titanrtx", "NVIDIA TITAN RTX", 24.0, 672.0, 130.5),
    // GeForce 20
    geforce("rtx2060", "NVIDIA GeForce RTX 2060", 6.0, 336.0, 25.8),
    geforce("rtx2060-12", "NVIDIA GeForce RTX 2060 12 GB", 12.0, 336.0, 28.7),
    geforce("rtx2060super", "NVIDIA GeForce RTX 2060 Super", 8.0, 448.0, 28.7),
    geforce("rtx2070", "NVIDIA GeForce RTX 2070", 8.0, 448.0, 29.9),
    geforce("rtx2070super", "NVIDIA GeForce RTX 2070 Super", 8.0, 448.0, 36.2),
    geforce("rtx2080", "NVIDIA GeForce RTX 2080", 8.0, 448.0, 40.3),
    geforce("rtx2080super", "NVIDIA GeForce RTX 2080 Super", 8.0, 495.9, 44.6),
    geforce("rtx2080ti", "NVIDIA GeForce RTX 2080 Ti", 11.0, 616.0, 53.8),
    // GeForce 30
    geforce("rtx3050-6", "NVIDIA GeForce RTX 3050 6 GB", 6.0, 168.0, 13.5),
    geforce("rtx3050", "NVIDIA GeForce RTX 3050 8 GB", 8.0, 224.0, 18.2),
    geforce("rtx3060-8", "NVIDIA GeForce RTX 3060 8 GB", 8.0, 240.0, 25.5),
    geforce("rtx3060", "NVIDIA GeForce RTX 3060 12 GB", 12.0, 360.0, 25.5),
    geforce("rtx3060ti", "NVIDIA GeForce RTX 3060 Ti", 8.0, 448.0, 32.4),
    geforce("rtx3070", "NVIDIA GeForce RTX 3070", 8.0, 448.0, 40.6),
    geforce("rtx3070ti", "NVIDIA GeForce RTX 3070 Ti", 8.0, 608.3, 43.5),
    geforce("rtx3080", "NVIDIA GeForce RTX 3080 10 GB", 10.0, 760.3, 59.5),
    geforce("rtx3080-12", "NVIDIA GeForce RTX 3080 12 GB", 12.0, 912.4, 61.3),
    geforce("rtx3080ti", "NVIDIA GeForce RTX 3080 Ti", 12.0, 912.4, 68.2),
    geforce("rtx3090", "NVIDIA GeForce RTX 3090", 24.0, 936.2, 71.2),
    geforce("rtx3090ti", "NVIDIA GeForce RTX 3090 Ti", 24.0, 1008.0, 80.0),
    geforce("rtx3050laptop", "NVIDIA GeForce RTX 3050 Laptop 4 GB", 4.0, 192.0, 11.0),
    geforce("rtx3060laptop", "NVIDIA GeForce RTX 3060 Laptop", 6.0, 336.0, 21.9),
    geforce("rtx3070laptop", "NVIDIA GeForce RTX 3070 Laptop", 8.0, 448.0, 31.9),
    geforce("rtx3080laptop", "NVIDIA GeForce RTX 3080 Laptop 8 GB", 8.0, 448.0, 38.0),
    geforce("rtx3080laptop-16", "NVIDIA GeForce RTX 3080 Laptop 16 GB", 16.0, 448.0, 38.0),
    geforce("rtx3080tilaptop", "NVIDIA GeForce RTX 3080 Ti Laptop", 16.0, 512.0, 37.4),
    // GeForce 40
    geforce("rtx4060", "NVIDIA GeForce RTX 4060", 8.0, 272.0, 30.2),
    geforce("rtx4060ti-8", "NVIDIA GeForce RTX 4060 Ti 8 GB", 8.0, 288.0, 44.1),
    geforce("rtx4060ti-16", "NVIDIA GeForce RTX 4060 Ti 16 GB", 16.0, 288.0, 44.1),
    geforce("rtx4070", "NVIDIA GeForce RTX 4070", 12.0, 504.2, 58.3),
    geforce("rtx4070super", "NVIDIA GeForce RTX 4070 Super", 12.0, 504.2, 71.0),
    geforce("rtx4070ti", "NVIDIA GeForce RTX 4070 Ti", 12.0, 504.2, 80.2),
    geforce("rtx4070tisuper", "NVIDIA GeForce RTX 4070 Ti Super", 16.0, 672.3, 88.2),
    geforce("rtx4080", "NVIDIA GeForce RTX 4080", 16.0, 716.8, 97.5),
    geforce("rtx4080super", "NVIDIA GeForce RTX 4080 Super", 16.0, 736.3, 104.4),
    geforce("rtx4090d", "NVIDIA GeForce RTX 4090 D", 24.0, 1008.0, 147.1),
    geforce("rtx4090", "NVIDIA GeForce RTX 4090", 24.0, 1008.0, 165.2),
    geforce("rtx4050laptop", "NVIDIA GeForce RTX 4050 Laptop", 6.0, 192.0, 18.0),
    geforce("rtx4060laptop", "NVIDIA GeForce RTX 4060 Laptop", 8.0, 256.0, 23.2),
    geforce("rtx4070laptop", "NVIDIA GeForce RTX 4070 Laptop", 8.0, 256.0, 31.2),
    geforce("rtx4080laptop", "NVIDIA GeForce RTX 4080 Laptop", 12.0, 432.0, 49.4),
    geforce("rtx4090laptop", "NVIDIA GeForce RTX 4090 Laptop", 16.0, 576.0, 66.0),
    // GeForce 50
    geforce("rtx5050", "NVIDIA GeForce RTX 5050", 8.0, 320.0, 26.3),
    geforce("rtx5060", "NVIDIA GeForce RTX 5060", 8.0, 448.0, 38.4),
    geforce("rtx5060ti-8", "NVIDIA GeForce RTX 5060 Ti 8 GB", 8.0, 448.0, 47.4),
    geforce("rtx5060ti-16", "NVIDIA GeForce RTX 5060 Ti 16 GB", 16.0, 448.0, 47.4),
    geforce("rtx5070", "NVIDIA GeForce RTX 5070", 12.0, 672.0, 61.7),
    geforce("rtx5070ti", "NVIDIA GeForce RTX 5070 Ti", 16.0, 896.0, 87.9),
    geforce("rtx5080", "NVIDIA GeForce RTX 5080", 16.0, 960.0, 112.6),
    geforce("rtx5090d", "NVIDIA GeForce RTX 5090 D", 32.0, 1792.0, 209.5),
    geforce("rtx5090", "NVIDIA GeForce RTX 5090", 32.0, 1792.0, 209.5),
    geforce("rtx5050laptop", "NVIDIA GeForce RTX 5050 Laptop", 8.0, 384.0, 15.4),
    geforce("rtx5060laptop", "NVIDIA GeForce RTX 5060 Laptop", 8.0, 384.0, 19.3),
    geforce("rtx5070laptop", "NVIDIA GeForce RTX 5070 Laptop", 8.0, 384.0, 26.3),
    geforce("rtx5070tilaptop", "NVIDIA GeForce RTX 5070 Ti Laptop", 12.0, 672.0, 34.2),
    geforce("rtx5080laptop", "NVIDIA GeForce RTX 5080 Laptop", 16.0, 896.0, 46.0),
    geforce("rtx5090laptop", "NVIDIA GeForce RTX 5090 Laptop", 24.0, 896.0, 63.6),
    // Workstation cards
    rtx_pro("a2000", "NVIDIA RTX A2000 6 GB", 6.0, 288.0, 31.9),
    rtx_pro("a2000-12", "NVIDIA RTX A2000 12 GB", 12.0, 288.0, 31.9),
    rtx_pro("a4000", "NVIDIA RTX A4000", 16.0, 448.0, 76.7),
    rtx_pro("a4500", "NVIDIA RTX A4500", 20.0, 640.0, 94.6),
    rtx_pro("a5000", "NVIDIA RTX A5000", 24.0, 768.0, 111.1),
    rtx_pro("a5500", "NVIDIA RTX A5500", 24.0, 768.0, 136.4),
    rtx_pro("a6000", "NVIDIA RTX A6000", 48.0, 768.0, 154.8),
    rtx_pro("rtx2000ada", "NVIDIA RTX 2000 Ada", 16.0, 224.0, 48.0),
    rtx_pro("rtx4000ada", "NVIDIA RTX 4000 Ada", 20.0, 360.0, 106.8),
    rtx_pro("rtx4500ada", "NVIDIA RTX 4500 Ada", 24.0, 432.0, 158.4),
    rtx_pro("rtx5000ada", "NVIDIA RTX 5000 Ada", 32.0, 576.0, 261.2),
    rtx_pro("rtx6000ada", "NVIDIA RTX 6000 Ada", 48.0, 960.0, 364.2),
    rtx_pro("rtxpro4000", "NVIDIA RTX PRO 4000 Blackwell", 24.0, 672.0, 147.4),
    rtx_pro("rtxpro4500", "NVIDIA RTX PRO 4500 Blackwell", 32.0, 896.0, 201.9),
    rtx_pro("rtxpro5000", "NVIDIA RTX PRO 5000 Blackwell", 48.0, 1344.0, 267.7),
    rtx_pro("rtxpro6000", "NVIDIA RTX PRO 6000 Blackwell", 96.0, 1792.0, 503.8),
    // Servers
    checked("p40", "NVIDIA Tesla P40", 24.0, 346.0, 11.8).in_f32(),
    server("p100", "NVIDIA Tesla P100", 16.0, 732.2, 10.6).in_f32(),
    server("v100", "NVIDIA V100 16 GB", 16.0, 897.0, 125.0),
    server("v100-32", "NVIDIA V100 32 GB", 32.0, 897.0, 125.0),
    checked("t4", "NVIDIA T4", 16.0, 320.0, 65.0),
    checked("a10", "NVIDIA A10", 24.0, 600.0, 125.0),
    server("a30", "NVIDIA A30", 24.0, 933.1, 165.0),
    checked("a40", "NVIDIA A40", 48.0, 696.0, 149.7),
    server("a100-40", "NVIDIA A100 40 GB", 40.0, 1555.0, 312.0),
    server("a100-80", "NVIDIA A100 80 GB", 80.0, 2039.0, 312.0),
    checked("l4", "NVIDIA L4", 24.0, 300.0, 121.0),
    checked("l40", "NVIDIA L40", 48.0, 864.0, 181.0),
    checked("l40s", "NVIDIA L40S", 48.0, 864.0, 362.0),
    server("h100-pcie", "NVIDIA H100 PCIe", 80.0, 2039.0, 756.0),
    server("h100", "NVIDIA H100 SXM", 80.0, 3350.0, 989.0),
    server("h100-nvl", "NVIDIA H100 NVL", 94.0, 3938.0, 835.0),
    server("gh200", "NVIDIA GH200 96 GB", 96.0, 4000.0, 990.0),
    server("h200", "NVIDIA H200", 141.0, 4800.0, 989.0),
    server("b200", "NVIDIA B200", 180.0, 8000.0, 2250.0),
    server("b300", "NVIDIA B300", 288.0, 8000.0, 2500.0),
    // Machines with one memory
    gpu("gb10", "NVIDIA DGX Spark (GB10)", 128.0, 273.0, 125.0, Unified, JETSON),
    gpu("orin-nano", "NVIDIA Jetson Orin Nano 8 GB (Super)", 8.0, 102.0, 17.0, Unified, JETSON),
    gpu("orin-nx", "NVIDIA Jetson Orin NX 16 GB", 16.0, 102.4, 25.0, Unified, JETSON),
    gpu("orin", "NVIDIA Jetson AGX Orin 64 GB", 64.0, 204.8, 42.5, Unified, JETSON),
    gpu("thor", "NVIDIA Jetson AGX Thor", 128.0, 273.0, 258.0, Unified, JETSON),
    // AMD
    amd("rx580", "AMD Radeon RX 580 8 GB", 8.0, 256.0, 6.2, Card).in_f32(),
    amd("rx5700xt", "AMD Radeon RX 5700 XT", 8.0, 448.0, 9.8, Card).in_f32(),
    amd("rx6600", "AMD Radeon RX 6600", 8.0, 224.0, 8.9, Card).in_f32(),
    amd("rx6600xt", "AMD Radeon RX 6600 XT", 8.0, 256.0, 10.6, Card).in_f32(),
    amd("rx6650xt", "AMD Radeon RX 6650 XT", 8.0, 280.3, 10.8, Card).in_f32(),
    amd("rx6700xt", "AMD Radeon RX 6700 XT", 12.0, 384.0, 13.2, Card).in_f32(),
    amd("rx6750xt", "AMD Radeon RX 6750 XT", 12.0, 432.0, 13.3, Card).in_f32(),
    amd("rx6800", "AMD Radeon RX 6800", 16.0, 512.0, 16.2, Card).in_f32(),
    amd("rx6800xt", "AMD Radeon RX 6800 XT", 16.0, 512.0, 20.7, Card).in_f32(),
    amd("rx6900xt", "AMD Radeon RX 6900 XT", 16.0, 512.0, 23.0, Card).in_f32(),
    amd("rx6950xt", "AMD Radeon RX 6950 XT", 16.0, 576.0, 23.6, Card).in_f32(),
    amd("rx7600", "AMD Radeon RX 7600", 8.0, 288.0, 43.5, Card),
    amd("rx7600xt", "AMD Radeon RX 7600 XT", 16.0, 288.0, 45.1, Card),
    amd("rx7700xt", "AMD Radeon RX 7700 XT", 12.0, 432.0, 70.3, Card),
    amd("rx7800xt", "AMD Radeon RX 7800 XT", 16.0, 624.1, 74.7, Card),
    amd("rx7900gre", "AMD Radeon RX 7900 GRE", 16.0, 576.0, 92.0, Card),
    amd("rx7900xt", "AMD Radeon RX 7900 XT", 20.0, 800.0, 103.0, Card),
    amd("rx7900xtx", "AMD Radeon RX 7900 XTX", 24.0, 960.0, 122.8, Card),
    amd("rx9060xt-8", "AMD Radeon RX 9060 XT 8 GB", 8.0, 322.3, 103.0, Card),
    amd("rx9060xt-16", "AMD Radeon RX 9060 XT 16 GB", 16.0, 322.3, 103.0, Card),
    amd("rx9070", "AMD Radeon RX 9070", 16.0, 644.6, 145.0, Card),
    amd("rx9070xt", "AMD Radeon RX 9070 XT", 16.0, 644.6, 195.0, Card),
    amd("w6800", "AMD Radeon PRO W6800", 32.0, 512.0, 17.8, Card).in_f32(),
    amd("w7800", "AMD Radeon PRO W7800", 32.0, 576.0, 90.5, Card),
    amd("w7900", "AMD Radeon PRO W7900", 48.0, 864.0, 122.6, Card),
    amd("r9700", "AMD Radeon AI PRO R9700", 32.0, 644.6, 191.0, Card),
    amd("mi50", "AMD Instinct MI50 32 GB", 32.0, 1024.0, 13.3, Server).in_f32(),
    amd("mi100", "AMD Instinct MI100", 32.0, 1228.8, 184.6, Server),
    amd("mi210", "AMD Instinct MI210", 64.0, 1638.4, 181.0, Server),
    amd("mi250x", "AMD Instinct MI250X (both halves)", 128.0, 3276.8, 383.0, Server),
    amd("mi300x", "AMD Instinct MI300X", 192.0, 5300.0, 1307.4, Server),
    amd("mi325x", "AMD Instinct MI325X", 256.0, 6000.0, 1307.4, Server),
    amd("mi355x", "AMD Instinct MI355X", 288.0, 8000.0, 2516.6, Server),
    amd("ryzen-ai-max-395", "AMD Ryzen AI Max+ 395 (128 GB)", 128.0, 256.0, 59.4, Unified),
    // Intel
    intel("a380", "Intel Arc A380", 6.0, 186.0, 33.0),
    intel("a750", "Intel Arc A750", 8.0, 512.0, 114.7),
    intel("a770-8", "Intel Arc A770 8 GB", 8.0, 512.0, 137.6),
    intel("a770", "Intel Arc A770 16 GB", 16.0, 559.9, 137.6),
    intel("b570", "Intel Arc B570", 10.0, 380.0, 101.5),
    intel("b580", "Intel Arc B580", 12.0, 456.0, 116.5),
    intel("b60", "Intel Arc Pro B60", 24.0, 456.0, 98.5),
    // Apple: the memory is the machine's; here that of the smallest machine sold at first
    apple("m1", "Apple M1", 8.0, 68.3, 2.6),
    apple("m1-pro", "Apple M1 Pro", 16.0, 204.8, 5.3),
    apple("m1-max", "Apple M1 Max", 32.0, 409.6, 10.6),
    apple("m1-ultra", "Apple M1 Ultra", 64.0, 819.2, 21.2),
    apple("m2", "Apple M2", 8.0, 102.4, 3.6),
    apple("m2-pro", "Apple M2 Pro", 16.0, 204.8, 6.8),
    apple("m2-max", "Apple M2 Max", 32.0, 409.6, 13.6),
    apple("m2-ultra", "Apple M2 Ultra", 64.0, 819.2, 27.2),
    apple("m3", "Apple M3", 8.0, 102.4, 3.5),
    apple("m3-pro", "Apple M3 Pro", 18.0, 153.6, 6.4),
    apple("m3-max", "Apple M3 Max", 36.0, 409.6, 14.2),
    apple("m3-ultra", "Apple M3 Ultra", 96.0, 819.2, 28.2),
    apple("m4", "Apple M4", 16.0, 120.0, 4.3),
    apple("m4-pro", "Apple M4 Pro", 24.0, 273.0, 8.5),
    apple("m4-max", "Apple M4 Max", 36.0, 546.0, 17.0),
];

/// Other names, without spelling, and the keys they mean. Of two memories the smaller is meant: what fits there fits both.
#[rustfmt::skip]
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("4060ti", "rtx4060ti-8"), ("5060ti", "rtx5060ti-8"), ("9060xt", "rx9060xt-8"), ("3060-12", "rtx3060"),
    ("3050-8", "rtx3050"), ("3080-10", "rtx3080"), ("1060-6", "gtx1060"), ("a100", "a100-40"), ("h100sxm", "h100"),
    ("h100-80", "h100"), ("v100-16", "v100"), ("a770-16", "a770"), ("a2000-6", "a2000"),
    ("dgxspark", "gb10"), ("spark", "gb10"),
    ("agxorin", "orin"), ("agxthor", "thor"), ("strixhalo", "ryzen-ai-max-395"), ("aimax395", "ryzen-ai-max-395"),
    ("8060s", "ryzen-ai-max-395"), ("rtx6000", "rtx6000ada"), ("pro6000", "rtxpro6000"), ("prow6800", "w6800"),
    ("prow7800", "w7800"), ("prow7900", "w7900"), ("aipror9700", "r9700"), ("prob60", "b60"), ("dgxsparkgb10", "gb10"),
];
