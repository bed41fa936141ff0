#!/usr/bin/env python3
"""Random tiny upscalers in the two namings of ESRGAN and in Real-ESRGAN's compact form, with an image through each.

The definitions follow the papers (Wang et al. 2018, 2021) and basicsr's rrdbnet_arch.py and srvgg_arch.py.
usage: golden_esrgan.py
writes tests/golden/esrgan/NAME/{model.safetensors,golden.json,golden.safetensors}; the layout: tests/golden/README.md
"""
import shutil

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import golden_common as g

FEATURES, GROWTH = 4, 2


def conv(i, o):
    return nn.Conv2d(i, o, 3, padding=1)


def leaky(x):
    return F.leaky_relu(x, 0.2)


def dense(convs, x):
    """Each convolution sees all that was made before it."""
    seen = [x]
    for c in convs[:-1]:
        seen.append(leaky(c(torch.cat(seen, 1))))
    return x + 0.2 * convs[-1](torch.cat(seen, 1))


class Dense(nn.Module):
    def __init__(self, old):
        super().__init__()
        for k in range(1, 6):
            c = conv(FEATURES + (k - 1) * GROWTH, FEATURES if k == 5 else GROWTH)
            # The old code has the activation beside the convolution.
            setattr(self, f"conv{k}", nn.Sequential(c, nn.LeakyReLU(0.2)) if old else c)

    def forward(self, x):
        convs = [getattr(self, f"conv{k}") for k in range(1, 6)]
        return dense([c[0] if isinstance(c, nn.Sequential) else c for c in convs], x)


class Block(nn.Module):
    def __init__(self, old):
        super().__init__()
        self.names = [("RDB" if old else "rdb") + str(k) for k in (1, 2, 3)]
        for n in self.names:
            setattr(self, n, Dense(old))

    def forward(self, x):
        y = x
        for n in self.names:
            y = getattr(self, n)(y)
        return x + 0.2 * y


class New(nn.Module):
    """basicsr's names; two doublings after what the unshuffling makes smaller."""

    def __init__(self, scale, blocks):
        super().__init__()
        self.unshuffle = 4 // scale
        self.conv_first = conv(3 * self.unshuffle**2, FEATURES)
        self.body = nn.Sequential(*[Block(False) for _ in range(blocks)])
        self.conv_body = conv(FEATURES, FEATURES)
        self.conv_up1 = conv(FEATURES, FEATURES)
        self.conv_up2 = conv(FEATURES, FEATURES)
        self.conv_hr = conv(FEATURES, FEATURES)
        self.conv_last = conv(FEATURES, 3)

    def forward(self, x):
        x = self.conv_first(F.pixel_unshuffle(x, self.unshuffle))
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = leaky(up(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(leaky(self.conv_hr(x)))


class Shortcut(nn.Module):
    def __init__(self, sub):
        super().__init__()
        self.sub = sub

    def forward(self, x):
        return x + self.sub(x)


class Old(nn.Module):
    """The names of the first ESRGAN: one nested sequence; as many doublings as the scale asks for."""

    def __init__(self, doublings, blocks):
        super().__init__()
        act = lambda: nn.LeakyReLU(0.2)
        up = [m for _ in range(doublings) for m in (nn.Upsample(scale_factor=2), conv(FEATURES, FEATURES), act())]
        body = Shortcut(nn.Sequential(*[Block(True) for _ in range(blocks)], conv(FEATURES, FEATURES)))
        end = (conv(FEATURES, FEATURES), act(), conv(FEATURES, 3))
        self.model = nn.Sequential(conv(3, FEATURES), body, *up, *end)

    def forward(self, x):
        return self.model(x)


class Compact(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        layers = [conv(3, FEATURES), nn.PReLU(FEATURES)]
        for _ in range(2):
            layers += [conv(FEATURES, FEATURES), nn.PReLU(FEATURES)]
        self.body = nn.Sequential(*layers, conv(FEATURES, 3 * scale**2))

    def forward(self, x):
        y = F.pixel_shuffle(self.body(x), self.scale)
        return y + F.interpolate(x, scale_factor=self.scale, mode="nearest")


MODELS = {
    "x4": New(4, 1),
    "x2": New(2, 1),
    "x1": New(1, 1),
    "old-x4": Old(2, 2),
    "old-x1": Old(0, 1),
    "compact-x4": Compact(4),
}

with torch.no_grad():
    for name, model in MODELS.items():
        gen = torch.Generator().manual_seed(sum(map(ord, name)))
        folder = g.ROOT / "esrgan" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for _, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            p.copy_(0.3 * noise if p.dim() == 1 else noise * (1.7 / p[0].numel()) ** 0.5)
        save_file(model.state_dict(), folder / "model.safetensors")
        image = torch.rand(1, 3, 8, 12, generator=gen)
        seen, _ = g.trace(model)
        out = model.double()(image.double())
        print(name, tuple(out.shape), f"std {out.std():.3f} max {out.abs().max():.3f}")
        arrays = {"image": image, "out": out, "layers": g.digest(seen)}
        facts = {"source": "the networks as golden_esrgan.py writes them, in torch in float64", "versions": g.versions()}
        g.save(f"esrgan/{name}", facts | {"layers": list(seen)}, arrays)
