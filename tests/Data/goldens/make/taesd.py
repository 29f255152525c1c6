"""Tiny autoencoders computed layer by layer on random weights: taesd_*.safetensors. Usage: taesd.py FOLDER"""
import torch
import torch.nn.functional as F

from tensors import folder, save

CHANNELS, BLOCKS_DOWN, BLOCKS_UP = 8, [1, 2, 1], [1, 2, 1]


def compute(latent_channels, norm):
    weights, c = {}, CHANNELS

    def make(name, inputs, outputs, kernel=3, bias=True, gain=1.0):
        weights[name + ".weight"] = torch.randn(outputs, inputs, kernel, kernel) * gain * (2 / (inputs * kernel * kernel)) ** 0.5
        if bias:
            weights[name + ".bias"] = torch.randn(outputs) * 0.1

    def convolve(x, name, **options):
        return F.conv2d(x, weights[name + ".weight"], weights.get(name + ".bias"), **options)

    def block(x, name, norm):
        for i in (0, 2, 4):
            make(f"{name}.conv.{i}", c, c, gain=0.7)
        if norm:
            make(f"{name}.pool.0", c, 4 * c, 1, False)
            weights[name + ".pool.1.weight"] = torch.randn(4 * c)
            weights[name + ".pool.1.bias"] = torch.randn(4 * c) * 0.3
            make(f"{name}.pool.3", 4 * c, c, 1, False, 0.5)
            h = F.group_norm(convolve(x, name + ".pool.0"), 4, weights[name + ".pool.1.weight"], weights[name + ".pool.1.bias"])
            x = x + convolve(h.relu(), name + ".pool.3")
        h = x
        for i in (0, 2, 4):
            h = convolve(h if i == 0 else h.relu(), f"{name}.conv.{i}", padding=1)
        return (h + x).relu()

    pixels = torch.rand(2, 3, 16, 8) * 2 - 1
    x, layer = (pixels + 1) / 2, 0
    for level, blocks in enumerate(BLOCKS_DOWN):
        first = level == 0
        make(f"encoder.layers.{layer}", 3 if first else c, c, bias=first)
        x, layer = convolve(x, f"encoder.layers.{layer}", padding=1, stride=1 if first else 2), layer + 1
        for _ in range(blocks):
            x, layer = block(x, f"encoder.layers.{layer}", norm and level == len(BLOCKS_DOWN) - 1), layer + 1
    make(f"encoder.layers.{layer}", c, latent_channels, gain=3)
    latent = convolve(x, f"encoder.layers.{layer}", padding=1)

    make("decoder.layers.0", latent_channels, c)
    x, layer = convolve(torch.tanh(latent / 3) * 3, "decoder.layers.0", padding=1).relu(), 2
    for level, blocks in enumerate(BLOCKS_UP):
        for _ in range(blocks):
            x, layer = block(x, f"decoder.layers.{layer}", norm and level == 0), layer + 1
        if level < len(BLOCKS_UP) - 1:
            make(f"decoder.layers.{layer + 1}", c, c, bias=False)
            x = convolve(F.interpolate(x, scale_factor=2, mode="nearest"), f"decoder.layers.{layer + 1}", padding=1)
            layer += 2
    make(f"decoder.layers.{layer}", c, 3, gain=0.5)
    decoded = convolve(x, f"decoder.layers.{layer}", padding=1) * 2 - 1
    return {**{f"weights.{name}": value for name, value in weights.items()}, "input.x": pixels, "output.latent": latent, "output.decoded": decoded}


target = folder()
torch.manual_seed(7)
for name, latent_channels, norm in (("taesd_plain", 4, False), ("taesd_middle_norm", 5, True)):
    config = {"channels": CHANNELS, "num_encoder_blocks": BLOCKS_DOWN, "num_decoder_blocks": BLOCKS_UP, "latent_channels": latent_channels, "middle_norm": norm}
    save(f"{target}/{name}.safetensors", compute(latent_channels, norm), config, "layer by layer, random weights")
