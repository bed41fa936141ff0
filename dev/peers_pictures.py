"""The picture models of dev/peers: Hob beside stable-diffusion.cpp and torch.

One process measures all tests of a model, as a step must come before there is something to decode. Figures are seconds.

  step@S  one step of the sampler at S × S pixels: the UNet with and without the prompt, Flux once
  vae@S   latents to pixels

stable-diffusion.cpp (pip's stable-diffusion-cpp-python) tells its steps by a callback and its decoding in its log; it is
measured plainly, and with flash attention and direct convolutions in the VAE. torch runs diffusers' own UNet and VAE in
float32, without files: shapes are all that time depends on.
"""
import json
import os
import re
import statistics
import sys
import tempfile
import time

# key, title, folder, how --setup makes it, what Hob is given, the rest for stable-diffusion.cpp
MODELS = [
    ("sd15", "SD 1.5 F16", "synth-sd15-f16", ("sd15", "f16"), "sd15-f16.safetensors", {}),
    ("sdxl", "SDXL Q8_0", "synth-sdxl-q8_0", ("sdxl", "q8_0"), "sdxl-q8_0.gguf",
     {"clip_l_path": "clip_l.safetensors", "clip_g_path": "clip_g-q8_0.gguf", "vae_path": "vae.safetensors"}),
    ("flux", "Flux.1 Q4_0", "synth-flux-q4_0", ("flux", "q4_0"), "flux1-schnell-q4_0.gguf",
     {"clip_l_path": "clip_l.safetensors", "t5xxl_path": "t5xxl-q4_0.gguf", "vae_path": "vae.safetensors"}),
]
# by model: test, and the goal beside each peer
TESTS = {
    "sd15": {"step@512": {"sd": 3.0, "torch": 1.5}, "vae@512": {"sd": 3.0, "torch": 1.5}},
    "sdxl": {"step@1024": {"sd": 2.0}, "vae@1024": {}},
    "flux": {"step@512": {"sd": 2.0}, "vae@512": {}},
}
PEERS = {  # title, what pip installs, its settings
    "sd": ("stable-diffusion.cpp", "stable-diffusion-cpp-python", {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}),
    "torch": ("torch, float32", "torch", {}),
}
MORE = {"torch": ["diffusers", "transformers"]}  # beside what is named above
WAYS = {"sd": "10", "torch": "0"}  # plainly: 0; with flash attention and direct convolutions: 1
CAN = {"torch": ["sd15"]}  # the others would take 10 GB and more in float32


def reps(path):
    """Steps measured at a time: those of the large models take minutes."""
    return 3 if path.stat().st_size < 2.5e9 else 1


# ---- a peer, in a process of its own


def peer(engine, path, tests, threads, way, reps):
    """Prints one JSON object: the seconds of each test, and what the engine says of itself."""
    side = tests.split("@")[-1]  # the tests of a model are of one size
    seconds, about = {"sd": of_sd, "torch": of_torch}[engine](path, int(side), int(threads), way == "1", int(reps))
    print("\n" + json.dumps({"seconds": {f"{name}@{side}": s for name, s in seconds.items()}, "about": about}))


def of_sd(path, side, threads, flash, reps):
    import stable_diffusion_cpp as api
    from stable_diffusion_cpp import StableDiffusion

    folder, file = os.path.split(path)
    key, _, _, _, _, parts = next(m for m in MODELS if m[4] == file)
    files = {k: os.path.join(folder, v) for k, v in parts.items()}
    files |= {"diffusion_model_path" if parts else "model_path": path}
    hint = tempfile.NamedTemporaryFile(suffix=".safetensors")
    if "clip_g_path" in parts:
        files["model_path"] = hint.name
        hint.write(second_encoder())
        hint.flush()
    ways = {"diffusion_flash_attn": flash, "vae_conv_direct": flash}
    log, keep = os.memfd_create("log"), os.dup(2)
    os.dup2(log, 2)  # it logs by Python, and some of it below
    model = StableDiffusion(**files, **ways, n_threads=threads, verbose=True)
    steps, guided = [], 1.0 if key == "flux" else 7.0
    model.generate_image(
        prompt="a lighthouse at dawn", negative_prompt="rain", width=side, height=side, sample_steps=reps, seed=1,
        cfg_scale=guided, sample_method="euler", progress_callback=lambda step, _, s: steps.append((step, s)))
    os.dup2(keep, 2)
    text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
    # Before the first step it tells of a step 0, and loading tells of its progress in the same way.
    took = [s for step, s in steps if 0 < step <= reps][-reps:]
    decoded = re.findall(r"decode_first_stage completed, taking ([\d.]+)s", text)
    if not took or not decoded:
        sys.exit(f"its log tells no times: {text[-300:]}")
    seconds = {"step": statistics.median(took), "vae": float(decoded[-1])}
    return seconds, " ".join(api.sd_get_system_info().decode().partition(":")[2].split())


def second_encoder():
    """A safetensors file with a name by which stable-diffusion.cpp knows SDXL: a lone UNet it does not know. The real tensor
    is read after it."""
    name = "conditioner.embedders.1.transformer.text_model.final_layer_norm.bias"
    header = json.dumps({name: {"dtype": "F16", "shape": [1280], "data_offsets": [0, 2560]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(2560)


def of_torch(path, side, threads, _, reps):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    latents = side // 8

    def timed(work):
        seconds = []
        for _ in range(reps):
            t = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - t)
        return statistics.median(seconds)

    with torch.no_grad():
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
        x, text = torch.randn(2, 4, latents, latents), torch.randn(2, 77, 768)
        step = timed(lambda: unet(x, torch.tensor(500.0), text).sample)
        del unet
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4).eval()
        x = torch.randn(1, 4, latents, latents)
        return {"step": step, "vae": timed(lambda: vae.decode(x).sample)}, ""


# ---- the measurements


def of_hob(bench, path, tests):
    """Seconds of each test."""
    command = [bench.hob, "bench", path, *tests, "--json", "--threads", str(bench.a.threads), "--reps", str(reps(path))]
    lines = map(json.loads, bench.child(command, bench.env).splitlines())
    return {line["test"]: line["seconds"] for line in lines}


def of_peer(bench, name, way, path, tests):
    command = [bench.a.home / name / "bin" / "python", sys.argv[0], "_peer", name, path, ",".join(tests)]
    said = json.loads(bench.child([*command, str(bench.a.threads), way, str(reps(path))]).splitlines()[-1])
    bench.about[name] = said["about"]
    return said["seconds"]


def compare(bench, failed, key, path, peers, tell):
    """By test: figures by engine, and by engine why there are none; Hob and the peers in turn. Of a peer's ways the better
    one counts in each test, and one that is the worse in all is not measured again. `failed` is what a measurement raises."""
    tests = [t for t in TESTS[key] if t.split("@")[0] in bench.a.tests]
    able = [p for p in peers if key in CAN.get(p, [key])]
    figures = {way: {t: [] for t in tests} for way in [("hob", "")] + [(p, w) for p in able for w in WAYS[p]]}
    failures = {}
    for turn in range(bench.a.rounds if tests else 0):
        for name, way in list(figures):
            try:
                seconds = of_peer(bench, name, way, path, tests) if way else of_hob(bench, path, tests)
            except failed as why:
                del figures[name, way]
                failures[name] = str(why)
                tell(f"{path.name} {name}: {why}")
                continue
            for t in tests:
                figures[name, way][t].append(seconds[t])
            tell(f"{path.name} {name}{' with flash attention' if way == '1' else ''} {seconds}")
        for p in able if turn == 0 else []:
            ways = {w: [figures[p, w][t][0] for t in tests] for w in WAYS[p] if (p, w) in figures}
            for w, others in [("0", ways.get("1")), ("1", ways.get("0"))]:
                if w in ways and others and all(a > 1.15 * b for a, b in zip(ways[w], others)):
                    del figures[p, w]
    results = {}
    for t in tests:
        best = {}
        for (name, _), values in figures.items():
            if name not in best or statistics.median(values[t]) < statistics.median(best[name]):
                best[name] = values[t]
        results[t] = best, {n: why for n, why in failures.items() if n not in best}
    return results


def rows(results, models, peers, cell):
    """The table's rows: `results` is {(model, test): (figures by engine, failures)}."""
    out = [["model", "test", "hob (s)"] + [x for p in peers for x in (f"{PEERS[p][0]} (s)", "ratio, goal")]]
    for key, title, *_ in models:
        for test, goals in TESTS[key].items():
            if (key, test) not in results:
                continue
            best, _ = results[key, test]
            row = [title, test, cell(best.get("hob"))]
            for p in peers:
                row += [cell(best.get(p)), verdict(best.get("hob"), best.get(p), goals.get(p))]
            out.append(row)
    return out


def verdict(hob, peer, goal):
    """How many times as fast as the peer, and whether the goal is met."""
    if not hob or not peer:
        return "–"
    ratio = statistics.median(peer) / statistics.median(hob)
    return f"{ratio:.2f}" + ("" if goal is None else " met" if ratio >= goal else f" **not met**, {goal}")
