#!/usr/bin/env python3
"""Noise, schedules and samplers of pictures: torch's generator, diffusers' schedulers, ComfyUI's formulas.

usage: golden_samplers.py        (needs also scipy, and torchsde with trampoline, which DPMSolverSDE asks for)
writes tests/golden/samplers/{golden.json,golden.safetensors}; the layout: tests/golden/README.md
"""
import inspect
import math

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from scipy import integrate, stats

import golden_common as g

arrays, facts = {}, {}


# ---- noise ----

def philox(seed, offset, n):
    """Philox 4x32-10 and Box-Muller as A1111's rng_philox.py describes them, by Python's integers."""
    out = []
    for i in range(n):
        c, k = [offset, 0, i, 0], [seed & 0xFFFFFFFF, seed >> 32]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
        unit, turn = np.float32(2.3283064e-10), np.float32(2.3283064e-10 * 6.2831855)
        u = c[0] * float(unit) + float(unit / np.float32(2))
        v = c[1] * float(turn) + float(turn / np.float32(2))
        out.append(math.sqrt(-2 * math.log(u)) * math.sin(v))
    return np.array(out, np.float32)


draws = []
for seed, sizes in [
    (0, [1, 2, 3, 15, 16, 17, 5, 31, 100, 1]),
    (1, list(range(1, 24))),
    (42, [2500]),
    (2**32 + 42, [64]),
    (2**64 - 1, [33, 7, 48]),
    (123456789, [1000, 999, 3]),
]:
    generator = torch.Generator().manual_seed(seed if seed < 2**63 else seed - 2**64)
    name = f"noise.torch.{len(draws)}"
    arrays[name] = torch.cat([torch.randn(n, generator=generator) for n in sizes])
    draws.append({"source": "torch-cpu", "seed": str(seed), "sizes": sizes, "array": name})
for seed, sizes in [(0, [6, 70, 1]), (2**40 + 7, [40, 40])]:
    name = f"noise.philox.{len(draws)}"
    arrays[name] = np.concatenate([philox(seed, i, n) for i, n in enumerate(sizes)])
    draws.append({"source": "philox", "seed": str(seed), "sizes": sizes, "array": name})
facts["noise"] = draws


# ---- tables ----

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
SPREADS = ["", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]


def configured(cls, config):
    """The scheduler, and the scheduler_config.json that leaves all else to the class's defaults."""
    return getattr(diffusers, cls)(**config), {"_class_name": cls} | config


tables = []


def table(cls, config, steps, sampler, **how):
    """The timesteps and sigmas that set_timesteps makes. Those of two evaluations a step are thinned to one."""
    s, config = configured(cls, config)
    listed = how.pop("listed", False)
    if listed:
        s.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=how.get("mu"))
    else:
        s.set_timesteps(steps, **{k: v for k, v in how.items() if k == "mu"})
    times = s.timesteps.double().numpy()
    if hasattr(s, "sigmas"):
        sigmas = s.sigmas.numpy()
        if s.order == 2:
            sigmas, times = np.concatenate([sigmas[:1], sigmas[1:-1:2], sigmas[-1:]]), times[::2]
        if cls.startswith("KDPM2"):
            sigmas = sigmas[: len(times) + 1]
    else:  # DDIM, PNDM, LCM: sigma by timestep, and where each step ends
        all_ = (((1 - s.alphas_cumprod) / s.alphas_cumprod) ** 0.5).numpy()
        if cls == "PNDMScheduler":
            times = np.concatenate([times[:1], times[2:]])
        at = times.astype(int)
        sigmas = np.append(all_[at], 0)
        if cls != "LCMScheduler":
            final = float(((1 - s.final_alpha_cumprod) / s.final_alpha_cumprod) ** 0.5)
            before = at - 1000 // steps
            arrays[f"table.{len(tables)}.to"] = np.where(before >= 0, all_[np.maximum(before, 0)], final)
    name = f"table.{len(tables)}"
    arrays[name + ".times"], arrays[name + ".sigmas"] = times, sigmas
    row = {"config": config, "sampler": sampler, "steps": steps, "array": name, "listed": listed}
    row["to"] = name + ".to" in arrays
    row["init"] = float(s.init_noise_sigma) if hasattr(s, "init_noise_sigma") and s.init_noise_sigma != 1 else None
    tables.append({k: v for k, v in (row | how).items() if v not in (None, False) and k != "mu"})


for cls, sampler in [
    ("EulerDiscreteScheduler", "euler"),
    ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
    ("HeunDiscreteScheduler", "heun"),
    ("KDPM2DiscreteScheduler", "dpm_2"),
    ("KDPM2AncestralDiscreteScheduler", "dpm_2_ancestral"),
    ("LMSDiscreteScheduler", "lms"),
    ("DPMSolverSDEScheduler", "dpmpp_sde"),
    ("DPMSolverMultistepScheduler", "dpmpp_2m"),
    ("UniPCMultistepScheduler", "uni_pc_bh2"),
    ("DDIMScheduler", "ddim"),
    ("PNDMScheduler", "plms"),
]:
    fixed = dict(skip_prk_steps=True) if cls == "PNDMScheduler" else {}
    fixed |= dict(clip_sample=False) if cls == "DDIMScheduler" else {}
    for i, (spacing, offset) in enumerate([("linspace", 0), ("leading", 1), ("trailing", 0)]):
        for steps in ([10, 33] if i != 1 else [7, 20]):
            table(cls, SD | fixed | dict(timestep_spacing=spacing, steps_offset=offset), steps, sampler)
    if cls not in ("EulerAncestralDiscreteScheduler", "DDIMScheduler", "PNDMScheduler"):
        for spread in SPREADS[1:]:
            for steps in (8, 25):
                table(cls, SD | {spread: True, "timestep_spacing": "leading" if steps == 8 else "linspace"}, steps, sampler)
    if cls in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        table(cls, SD | dict(final_sigmas_type="sigma_min"), 9, sampler)
        table(cls, SD | dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"), 12, sampler)
        table(cls, dict(beta_schedule="squaredcos_cap_v2"), 11, sampler)
        table(cls, dict(), 11, sampler)
    if cls == "DDIMScheduler":
        table(cls, SD | dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1), 30, sampler)
table("EulerDiscreteScheduler", SD | dict(use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0), 9, "euler")
table("EulerDiscreteScheduler", SD | dict(timestep_spacing="leading"), 1, "euler")
table("DPMSolverMultistepScheduler", SD | dict(use_lu_lambdas=True), 10, "dpmpp_2m")
table("DPMSolverMultistepScheduler", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1), 10, "dpmpp_2m")
table("DPMSolverMultistepScheduler", dict(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True), 10, "dpmpp_2m")
for steps in (1, 4, 7):
    table("LCMScheduler", SD, steps, "lcm")

# Flows: Flux hands its scheduler a list of sigmas and mu by the number of tokens, Stable Diffusion 3 nothing.
FLOW = "FlowMatchEulerDiscreteScheduler"
for tokens in (256, 1024, 4096, 5000):
    mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256)
    table(FLOW, dict(use_dynamic_shifting=True, shift=3.0), 8, "euler", listed=True, mu=mu, tokens=tokens)
table(FLOW, dict(use_dynamic_shifting=True, shift_terminal=0.1, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024),
      6, "euler", listed=True, mu=1.5, tokens=2560)
table(FLOW, dict(use_dynamic_shifting=True, time_shift_type="linear"), 6, "euler", listed=True, mu=0.825, tokens=2176)
table(FLOW, dict(shift=1.0), 4, "euler", listed=True)
for extra in [{}] + [{s: True} for s in SPREADS[1:]]:
    table(FLOW, dict(shift=3.0) | extra, 10, "euler")
table("FlowMatchHeunDiscreteScheduler", dict(shift=3.0), 9, "heun")
for cls, sampler in [("DPMSolverMultistepScheduler", "dpmpp_2m"), ("UniPCMultistepScheduler", "uni_pc_bh2")]:
    table(cls, dict(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0), 10, sampler)
facts["tables"] = tables


# ---- schedules by ComfyUI's names: its formulas, from its own description of the trained levels ----

def comfy_levels(config):
    flow = config["_class_name"].startswith("FlowMatch")
    if flow and config.get("use_dynamic_shifting"):
        e = math.exp(1.15)
        sigma = lambda t: e / (e + (1 / t - 1))
        return sigma(torch.arange(1, 10001) / 10000), sigma, lambda s: s
    if flow:
        sigma = lambda t: config["shift"] * t / (1 + (config["shift"] - 1) * t)
        return sigma(torch.arange(1, 1001) / 1000), sigma, lambda s: s
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    bars = torch.cumprod(1 - betas, 0)
    sigmas = ((1 - bars) / bars) ** 0.5
    if config.get("rescale_betas_zero_snr"):
        roots = (1 / (sigmas**2 + 1)).sqrt()
        first, last = roots[0].clone(), roots[-1].clone()
        bars = ((roots - last) * (first / (first - last))) ** 2
        bars[-1] = 4.8973451890853435e-08
        sigmas = ((1 - bars) / bars) ** 0.5
    logs, sigmas = sigmas.log().float(), sigmas.float()

    def sigma(t):
        t = torch.clamp(torch.as_tensor(t).float(), 0, 999)
        low, high, w = logs[t.floor().long()], logs[t.ceil().long()], t.frac()
        return ((1 - w) * low + w * high).exp()

    return sigmas, sigma, lambda s: (torch.as_tensor(s).log() - logs).abs().argmin()


AYS = {
    "sd15": [14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582],
    "sdxl": [14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582],
    "svd": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}


def comfy_sigmas(config, name, n):
    levels, sigma, time = comfy_levels(config)
    low, high = float(levels[0]), float(levels[-1])
    if name in ("normal", "sgm_uniform"):
        start, end = float(time(levels[-1])), float(time(levels[0]))
        times = torch.linspace(start, end, n) if name == "normal" else torch.linspace(start, end, n + 1)[:-1]
        out = [float(sigma(t)) for t in times]
    elif name == "karras":
        ramp = torch.linspace(0, 1, n)
        out = ((high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7).tolist()
    elif name == "exponential":
        out = torch.linspace(math.log(high), math.log(low), n).exp().tolist()
    elif name == "simple":
        out = [float(levels[-(1 + int(x * (len(levels) / n)))]) for x in range(n)]
    elif name == "ddim_uniform":
        out = [float(levels[x]) for x in range(1, len(levels), max(len(levels) // n, 1))][::-1]
    elif name == "beta":
        ts = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * (len(levels) - 1))
        out = [float(levels[int(t)]) for i, t in enumerate(ts) if i == 0 or t != ts[i - 1]]
    elif name == "linear_quadratic":
        k = n // 2
        d, q = k - 0.025 * n, n - k
        a, b = d / (k * q**2), 0.025 / k - 2 * d / q**2
        out = [(1 - i * 0.025 / k) * high for i in range(k)] + [(1 - (a * i**2 + b * i + a * k**2)) * high for i in range(k, n)]
    elif name == "kl_optimal":
        t = torch.arange(n, dtype=torch.float) / (n - 1)
        out = (t * math.atan(low) + (1 - t) * math.atan(high)).tan().tolist()
    else:
        table = AYS[name]
        xs = np.linspace(0, 1, len(table))
        out = np.exp(np.interp(np.linspace(0, 1, n + 1), xs, np.log(table[::-1])))[::-1][:-1].tolist()
    out = torch.tensor(out + [0.0])
    times = [float(time(s)) * (1000 if config["_class_name"].startswith("FlowMatch") else 1) for s in out[:-1]]
    return out, times


comfy = []
CONFIGS = [
    ({"_class_name": "EulerDiscreteScheduler"} | SD, ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "linear_quadratic", "kl_optimal", "sd15", "sdxl", "svd"]),
    ({"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"} | SD, ["normal", "simple", "sgm_uniform", "karras"]),
    ({"_class_name": FLOW, "shift": 3.0, "use_dynamic_shifting": True}, ["normal", "simple", "beta", "sgm_uniform", "karras", "ddim_uniform", "linear_quadratic"]),
    ({"_class_name": FLOW, "shift": 1.0}, ["simple", "normal", "beta", "exponential"]),
]
for config, names in CONFIGS:
    for schedule in names:
        for steps in (4, 10, 23):
            sigmas, times = comfy_sigmas(config, schedule, steps)
            name = f"comfy.{len(comfy)}"
            arrays[name + ".sigmas"], arrays[name + ".times"] = sigmas, np.array(times)
            comfy.append({"config": config, "schedule": schedule, "steps": steps, "array": name})
facts["comfy"] = comfy


# ---- walks on a model that is a formula ----

SHAPE = (1, 2, 4, 5)
START = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
ORIGINAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(6)) * 0.8
PAINT = (torch.arange(40).reshape(SHAPE) % 3 != 0).float()
arrays |= {"walk.original": ORIGINAL, "walk.paint": PAINT}


def network(x, t):
    """x as the network gets it, and the timestep."""
    return 0.8 * x + 0.3 * torch.tanh(1.7 * x + float(t) / 500) - 0.1


walks = []


def walk(cls, config, steps, sampler, strength=None, paint=False, eta=None, **kwargs):
    s, config = configured(cls, config)
    flow = cls.startswith("FlowMatch")
    listed = kwargs.pop("listed", False)
    if listed:
        s.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=kwargs.pop("mu", None))
    else:
        s.set_timesteps(steps)
    generator = torch.Generator().manual_seed(77)
    if cls == "DPMSolverSDEScheduler":  # fresh noise instead of a Brownian tree
        s.noise_sampler = lambda a, b: torch.randn(SHAPE, generator=generator)
    start = 0
    if strength is not None:
        start = int(steps - steps * strength) if flow else steps - int(steps * strength)
        s.set_begin_index(start * s.order) if hasattr(s, "set_begin_index") else None
    elif hasattr(s, "set_begin_index"):
        s.set_begin_index(0)
    times = s.timesteps[start * s.order:]
    if strength is not None:
        x = s.scale_noise(ORIGINAL, times[:1], START) if flow else s.add_noise(ORIGINAL, START, times[:1])
    else:
        x = START * getattr(s, "init_noise_sigma", 1.0)
    takes = inspect.signature(s.step).parameters
    extra = {"generator": generator} if "generator" in takes else {}
    extra |= {"eta": eta} if eta is not None else {}
    for i, t in enumerate(times):
        given = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        x = s.step(network(given, t), t, x, return_dict=False, **extra)[0].float()
        if paint:
            kept = ORIGINAL
            if i + 1 < len(times):
                kept = s.add_noise(ORIGINAL, START, times[i + 1 : i + 2])
            x = (1 - PAINT) * kept + PAINT * x
    name = f"walk.{len(walks)}"
    arrays[name] = x
    row = {"config": config, "sampler": sampler, "steps": steps, "array": name, "listed": listed}
    row |= {"strength": strength, "paint": paint, "eta": eta} | kwargs
    walks.append({k: v for k, v in row.items() if v not in (None, False)})


V = dict(prediction_type="v_prediction")
LEAD = dict(timestep_spacing="leading", steps_offset=1)
EULER, DPM, UNI = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
for config, steps in [(SD, 8), (SD | LEAD, 6), (SD | V | dict(timestep_spacing="trailing", rescale_betas_zero_snr=True), 6),
                      (SD | dict(use_karras_sigmas=True), 7), (SD | dict(prediction_type="sample"), 5), (SD | dict(final_sigmas_type="sigma_min"), 5)]:
    walk(EULER, config, steps, "euler")
walk("EulerAncestralDiscreteScheduler", SD | LEAD, 6, "euler_ancestral")
walk("EulerAncestralDiscreteScheduler", SD | V, 5, "euler_ancestral")
for spread in SPREADS:
    extra = {spread: True} if spread else {}
    walk("HeunDiscreteScheduler", SD | extra, 6, "heun")
    walk("KDPM2DiscreteScheduler", SD | extra, 6, "dpm_2")
    walk("KDPM2AncestralDiscreteScheduler", SD | extra, 6, "dpm_2_ancestral")
    walk("LMSDiscreteScheduler", SD | extra, 8, "lms")
    walk("DPMSolverSDEScheduler", SD | extra, 6, "dpmpp_sde")
    walk(DPM, SD | extra, 8, "dpmpp_2m")
    walk(UNI, SD | extra, 8, "uni_pc_bh2")
for extra in [{}, V, dict(solver_type="heun"), dict(algorithm_type="sde-dpmsolver++"), dict(algorithm_type="sde-dpmsolver++", solver_type="heun"),
              dict(euler_at_final=True, final_sigmas_type="sigma_min"), dict(solver_order=1), LEAD]:
    walk(DPM, SD | extra, 7, "dpmpp_2m_sde" if "algorithm_type" in extra else "dpmpp_2m")
walk(DPM, SD | dict(solver_order=3), 8, "dpmpp_3m")
walk(DPM, SD | dict(solver_order=3, use_karras_sigmas=True), 16, "dpmpp_3m")
walk(DPM, SD | dict(solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"), 8, "dpmpp_3m")
for extra in [dict(solver_order=3), dict(solver_type="bh1", final_sigmas_type="sigma_min"), dict(solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"), V,
              dict(lower_order_final=False, final_sigmas_type="sigma_min"),
              dict(final_sigmas_type="sigma_min", solver_order=3)]:
    walk(UNI, SD | extra, 8, "uni_pc" if extra.get("solver_type") == "bh1" else "uni_pc_bh2")
DDIM = SD | dict(clip_sample=False)
for extra, eta in [({}, 0.0), (LEAD | dict(set_alpha_to_one=False), 0.0), ({}, 1.0), (V, 0.5), (dict(timestep_spacing="trailing"), 0.3)]:
    walk("DDIMScheduler", DDIM | extra, 7, "ddim", eta=eta)
walk("PNDMScheduler", SD | dict(skip_prk_steps=True, steps_offset=1), 8, "plms")
walk("PNDMScheduler", SD | dict(skip_prk_steps=True, set_alpha_to_one=True), 3, "plms")
walk("LCMScheduler", SD, 4, "lcm")
walk("LCMScheduler", SD | V, 1, "lcm")
walk(FLOW, dict(shift=3.0), 6, "euler")
walk(FLOW, dict(shift=1.0), 4, "euler", listed=True)
walk(FLOW, dict(use_dynamic_shifting=True, shift=3.0), 5, "euler", listed=True, mu=0.63, tokens=1024)
walk(FLOW, dict(shift=3.0, stochastic_sampling=True), 5, "lcm")
walk("FlowMatchHeunDiscreteScheduler", dict(shift=3.0), 6, "heun")
FLOWS = dict(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
walk(DPM, FLOWS, 8, "dpmpp_2m")
walk(DPM, FLOWS | dict(algorithm_type="sde-dpmsolver++"), 8, "dpmpp_2m_sde")
walk(DPM, FLOWS | dict(solver_order=3), 8, "dpmpp_3m")
walk(UNI, FLOWS, 8, "uni_pc_bh2")
# From a picture, and with a mask.
for cls, sampler, config in [(EULER, "euler", SD | LEAD), (DPM, "dpmpp_2m", SD), (UNI, "uni_pc_bh2", SD), ("HeunDiscreteScheduler", "heun", SD),
                             ("DDIMScheduler", "ddim", DDIM | LEAD), (FLOW, "euler", dict(shift=3.0)), (DPM, "dpmpp_2m_sde", SD | dict(algorithm_type="sde-dpmsolver++"))]:
    walk(cls, config, 10, sampler, strength=0.65)
    if cls != FLOW:
        walk(cls, config, 6, sampler, paint=True)
        walk(cls, config, 8, sampler, paint=True, strength=0.5)
facts["walks"] = walks


# ---- samplers that diffusers has not: k-diffusion's formulas, on ComfyUI's schedules ----

def denoised(config, x, sigma, time):
    sigma = float(sigma)
    if config["_class_name"] == FLOW:
        return x - sigma * network(x, time)
    return x - sigma * network(x / (sigma**2 + 1) ** 0.5, time)


def step_down(sigma, to, eta=1.0):
    up = min(to, eta * (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5)
    return (to**2 - up**2) ** 0.5, up


def formula(config, schedule, steps, sampler, more=0):
    sigmas, times = comfy_sigmas(config, schedule, steps + more)
    if more:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    _, _, time_of = comfy_levels(config)
    flow = config["_class_name"] == FLOW
    time = lambda s: float(time_of(torch.tensor(float(s)))) * (1000 if flow else 1)
    ask = lambda x, s: denoised(config, x, s, time(s))
    generator = torch.Generator().manual_seed(77)
    noise = lambda: torch.randn(SHAPE, generator=generator)
    sig = [float(s) for s in sigmas.double()]
    high = float(comfy_levels(config)[0][-1])
    x = START * (sig[0] if flow or sig[0] < high * (1 - 1e-5) else (1 + sig[0] ** 2) ** 0.5)
    old, hs, ds = [], [], []
    for i in range(len(sig) - 1):
        s, to = sig[i], sig[i + 1]
        d = ask(x, s)
        if sampler == "dpmpp_2s_ancestral" and not flow:
            down, up = step_down(s, to)
            if down == 0:
                x = d
            else:
                t, t_next = -math.log(s), -math.log(down)
                mid = math.exp(-(t + 0.5 * (t_next - t)))
                x2 = mid / s * x - math.expm1(-(t_next - t) * 0.5) * d
                x = down / s * x - math.expm1(-(t_next - t)) * ask(x2, mid)
            if to > 0:
                x = x + noise() * up
        elif sampler in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"):  # ComfyUI's ..._RF, for flows
            down = to * (1 + (to / s - 1))
            a, b = 1 - to, 1 - down
            again = (to**2 - down**2 * a**2 / b**2) ** 0.5
            if to == 0:
                x = d
                continue
            if sampler == "euler_ancestral":
                x = down / s * x + (1 - down / s) * d
            elif sampler == "dpm_2_ancestral":
                mid = math.exp(0.5 * (math.log(s) + math.log(down)))
                x2 = x + (x - d) / s * (mid - s)
                x = x + (x2 - ask(x2, mid)) / mid * (down - s)
            else:
                l = lambda v: math.log((1 - v) / v)
                mid = 0.9999 if s == 1 else 1 / (math.exp(l(s) + 0.5 * (l(down) - l(s))) + 1)
                u = mid / s * x + (1 - mid / s) * d
                x = down / s * x + (1 - down / s) * ask(u, mid)
            x = a / b * x + noise() * again
        elif sampler in ("dpmpp_2m_sde", "dpmpp_3m_sde"):
            if to == 0:
                x = d
                continue
            h = math.log(s) - math.log(to)
            e = 2 * h
            x = to / s * math.exp(-h) * x - math.expm1(-e) * d
            p2 = math.expm1(-e) / e + 1
            p3 = p2 / e - 0.5
            if sampler == "dpmpp_2m_sde" and old:
                x = x - 0.5 * math.expm1(-e) / (hs[-1] / h) * (d - old[-1])
            elif sampler == "dpmpp_3m_sde" and len(old) > 1:
                r0, r1 = hs[-1] / h, hs[-2] / h
                d10, d11 = (d - old[-1]) / r0, (old[-1] - old[-2]) / r1
                d1, d2 = d10 + (d10 - d11) * r0 / (r0 + r1), (d10 - d11) / (r0 + r1)
                x = x + p2 * d1 - p3 * d2
            elif sampler == "dpmpp_3m_sde" and old:
                x = x + p2 * (d - old[-1]) / (hs[-1] / h)
            x = x + noise() * to * (-math.expm1(-2 * h)) ** 0.5
            old.append(d)
            hs.append(h)
        elif sampler == "dpmpp_sde":  # for flows, with lambda of a sigma below one
            if to == 0:
                x = d
                continue
            lam = lambda v: math.log((1 - v) / v) if flow else -math.log(v)
            inv = lambda l: 1 / (1 + math.exp(l)) if flow else math.exp(-l)
            l0, l1 = lam(min(s, 0.9999) if flow else s), lam(to)
            mid = l0 + 0.5 * (l1 - l0)
            alpha = lambda l: inv(l) * math.exp(l)
            for half, end in ((0, mid), (1, l1)):
                sd, su = step_down(math.exp(-l0), math.exp(-end))
                h = -math.log(sd) - l0
                y = alpha(end) / alpha(l0) * math.exp(-h) * x - alpha(end) * math.expm1(-h) * d + alpha(end) * noise() * su
                d = ask(y, inv(mid)) if half == 0 else d
            x = y
        elif sampler == "lcm":
            x = d if to == 0 else (to * noise() + (1 - to) * d if flow else d + to * noise())
        elif sampler == "lms":
            ds.append((x - d) / s)
            ds = ds[-4:]
            if to == 0:
                x = d
                continue
            n = len(ds)
            c = [integrate.quad(lambda tau: math.prod((tau - sig[i - k]) / (sig[i - j] - sig[i - k]) for k in range(n) if k != j), s, to)[0] for j in range(n)]
            x = x + sum(a * b for a, b in zip(c, reversed(ds)))
        elif sampler == "dpm_2":
            if to == 0:
                x = x + (x - d) / s * (to - s)
            else:
                mid = math.exp(0.5 * (math.log(s) + math.log(to)))
                x2 = x + (x - d) / s * (mid - s)
                x = x + (x2 - ask(x2, mid)) / mid * (to - s)
        else:
            raise ValueError(sampler)
    name = f"formula.{len(formulas)}"
    arrays[name] = x
    formulas.append({"config": config, "schedule": schedule, "steps": steps, "sampler": sampler, "array": name})


formulas = []
PLAIN, FLUX = CONFIGS[0][0], CONFIGS[2][0]
for sampler, schedule in [("dpmpp_2s_ancestral", "karras"), ("dpmpp_2m_sde", "exponential"), ("dpmpp_3m_sde", "exponential"), ("dpmpp_sde", "karras"),
                          ("lcm", "sgm_uniform"), ("lms", "normal")]:
    formula(PLAIN, schedule, 8, sampler)
formula(PLAIN, "karras", 7, "dpm_2", more=1)
for sampler in ("euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "lcm"):
    formula(FLUX, "simple", 6, sampler)
formula(FLUX, "simple", 6, "dpm_2_ancestral", more=1)
facts["formulas"] = formulas


# ---- guidance ----

prompt, negative = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(8)), torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(9))
both = negative + 7.5 * (prompt - negative)
arrays |= {"guidance.prompt": prompt, "guidance.negative": negative, "guidance.plain": both, "guidance.rescaled": rescale_noise_cfg(both, prompt, 0.7)}

for key, value in arrays.items():
    value = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    assert np.isfinite(value).all(), (key, [w for w in walks + formulas if w["array"] == key])
    if key.startswith(("walk", "formula")):
        assert np.abs(value).max() < 1e3, (key, np.abs(value).max())
g.save("samplers", {"source": "torch, diffusers, and the formulas of ComfyUI and k-diffusion", "versions": g.versions("diffusers", "scipy")} | facts, arrays)
print(len(tables), "tables", len(comfy), "schedules", len(walks), "walks", len(formulas), "formulas")
