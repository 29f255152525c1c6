"""The temporal decoder of Stable Video Diffusion computed layer by layer on random weights: svd_frames.safetensors. Usage: svd.py FOLDER"""
import torch
import torch.nn.functional as F

from tensors import folder, save

LEVELS, GROUPS, LATENT, LAYERS = [8, 16], 4, 4, 2
weights = {}


def make(name, *shape, gain=1.0):
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    weights[name + ".weight"] = torch.randn(*shape) * gain / inputs ** 0.5
    weights[name + ".bias"] = torch.randn(shape[0]) * 0.1


def norm(x, name, eps):
    if name + ".weight" not in weights:
        weights[name + ".weight"] = 1 + 0.3 * torch.randn(x.shape[1])
        weights[name + ".bias"] = torch.randn(x.shape[1]) * 0.2
    return F.group_norm(x, GROUPS, weights[name + ".weight"], weights[name + ".bias"], eps)


def conv(x, name, outputs, size=3, **options):
    if name + ".weight" not in weights:
        make(name, outputs, x.shape[1], size, size)
    return F.conv2d(x, weights[name + ".weight"], weights[name + ".bias"], padding=size // 2 if not options else 0, **options)


def time_conv(x, name):
    if name + ".weight" not in weights:
        make(name, x.shape[1], x.shape[1], 3, 1, 1)
    return F.conv3d(x, weights[name + ".weight"], weights[name + ".bias"], padding=(1, 0, 0))


def spatial(x, name, outputs):
    h = conv(F.silu(norm(x, name + ".norm1", 1e-6)), name + ".conv1", outputs)
    h = conv(F.silu(norm(h, name + ".norm2", 1e-6)), name + ".conv2", outputs)
    return (conv(x, name + ".conv_shortcut", outputs, 1) if x.shape[1] != outputs else x) + h


def attention(x, name):
    n, c, height, width = x.shape
    tokens = norm(x, name + ".group_norm", 1e-6).reshape(n, c, height * width).transpose(1, 2)
    for layer in ("to_q", "to_k", "to_v", "to_out.0"):
        if f"{name}.{layer}.weight" not in weights:
            make(f"{name}.{layer}", c, c)
    q, k, v = (F.linear(tokens, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"]) for layer in ("to_q", "to_k", "to_v"))
    y = torch.softmax(q @ k.transpose(1, 2) / c ** 0.5, -1) @ v
    y = F.linear(y, weights[name + ".to_out.0.weight"], weights[name + ".to_out.0.bias"])
    return x + y.transpose(1, 2).reshape(n, c, height, width)


def block(x, name, outputs, videos):
    """x: [videos * frames, channels, height, width]"""
    x = spatial(x, name + ".spatial_res_block", outputs)
    n, c, height, width = x.shape
    video = x.reshape(videos, n // videos, c, height, width).permute(0, 2, 1, 3, 4)
    h = time_conv(F.silu(norm(video, name + ".temporal_res_block.norm1", 1e-5)), name + ".temporal_res_block.conv1")
    h = time_conv(F.silu(norm(h, name + ".temporal_res_block.norm2", 1e-5)), name + ".temporal_res_block.conv2")
    if name + ".time_mixer.mix_factor" not in weights:
        weights[name + ".time_mixer.mix_factor"] = torch.randn(1)
    share_of_space = 1 - torch.sigmoid(weights[name + ".time_mixer.mix_factor"])
    mixed = share_of_space * video + (1 - share_of_space) * (video + h)
    return mixed.permute(0, 2, 1, 3, 4).reshape(n, c, height, width)


def decode(latents):
    """latents: [videos, channels, frames, height, width]"""
    videos, channels, frames, height, width = latents.shape
    wide = LEVELS[::-1]
    x = conv(latents.permute(0, 2, 1, 3, 4).reshape(videos * frames, channels, height, width), "decoder.conv_in", wide[0])
    x = block(x, "decoder.mid_block.resnets.0", wide[0], videos)
    x = block(attention(x, "decoder.mid_block.attentions.0"), "decoder.mid_block.resnets.1", wide[0], videos)
    for level, outputs in enumerate(wide):
        for layer in range(LAYERS + 1):
            x = block(x, f"decoder.up_blocks.{level}.resnets.{layer}", outputs, videos)
        if level < len(wide) - 1:
            x = conv(F.interpolate(x, scale_factor=2, mode="nearest"), f"decoder.up_blocks.{level}.upsamplers.0.conv", outputs)
    x = conv(F.silu(norm(x, "decoder.conv_norm_out", 1e-6)), "decoder.conv_out", 3)
    video = x.reshape(videos, frames, 3, *x.shape[2:]).permute(0, 2, 1, 3, 4)
    return time_conv(video, "decoder.time_conv_out")


def encode(pixels):
    x = conv(pixels, "encoder.conv_in", LEVELS[0])
    for level, outputs in enumerate(LEVELS):
        for layer in range(LAYERS):
            x = spatial(x, f"encoder.down_blocks.{level}.resnets.{layer}", outputs)
        if level < len(LEVELS) - 1:
            x = conv(F.pad(x, (0, 1, 0, 1)), f"encoder.down_blocks.{level}.downsamplers.0.conv", outputs, stride=2)
    x = spatial(x, "encoder.mid_block.resnets.0", LEVELS[-1])
    x = spatial(attention(x, "encoder.mid_block.attentions.0"), "encoder.mid_block.resnets.1", LEVELS[-1])
    x = conv(F.silu(norm(x, "encoder.conv_norm_out", 1e-6)), "encoder.conv_out", 2 * LATENT)
    return conv(x, "quant_conv", 2 * LATENT, 1).chunk(2, 1)[0]


target = folder()
torch.manual_seed(11)
video = torch.rand(2, 3, 5, 8, 12) * 2 - 1
mean = encode(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 5)).transpose(1, 2)
latents = torch.randn(2, LATENT, 5, 4, 6)
decoded = decode(latents)
chunked = torch.cat([decode(latents[:, :, :3]), decode(latents[:, :, 3:])], 2)
config = {"block_out_channels": LEVELS, "norm_num_groups": GROUPS, "latent_channels": LATENT, "layers_per_block": LAYERS}
tensors = {f"weights.{name}": value for name, value in weights.items()}
tensors |= {"input.x": video, "output.mean": mean, "input.latents": latents, "output.decoded": decoded, "output.decoded_in_threes": chunked}
save(f"{target}/svd_frames.safetensors", tensors, config, "layer by layer, random weights")
