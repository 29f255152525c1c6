"""Makes the PyTorch checkpoints beside it, with torch 1.13.1. Run it in this folder: python3 make.py"""
import argparse
import json
import os
import sys
import types
from collections import OrderedDict, defaultdict

import torch
from torch import nn

torch.manual_seed(0)


def types_module(name):
    """An importable module that is empty."""
    parts = name.split(".")
    for i in range(len(parts)):
        sys.modules[".".join(parts[:i + 1])] = types.ModuleType(".".join(parts[:i + 1]))
    return sys.modules[name]


def numbers(*shape, start=0):
    count = 1
    for size in shape:
        count *= size
    return torch.arange(start, start + count, dtype=torch.float32).view(*shape)


def state(start=0):
    return OrderedDict([("linear.weight", numbers(3, 4, start=start)), ("linear.bias", numbers(3, start=start + 12)), ("table", numbers(2, start=start + 15))])


# Every element type.
dtypes = dict(f16=torch.float16, bf16=torch.bfloat16, f32=torch.float32, f64=torch.float64, i64=torch.int64, i32=torch.int32, i16=torch.int16, i8=torch.int8, u8=torch.uint8)
torch.save({**{name: numbers(2, 3).to(dtype) for name, dtype in dtypes.items()}, "bool": torch.tensor([True, False, True])}, "types.pt")

# Views of one storage, and shapes at the edges.
base = numbers(4, 6)
torch.save({
    "base": base, "same": base, "transposed": base.t(), "slice": base[1:3, 2:5], "steps": base[::2, ::3], "row": base[2],
    "expanded": numbers(3, 1).expand(3, 4), "scalar": torch.tensor(7.0), "nothing": torch.zeros(0, 3), "channels_last": numbers(1, 2, 2, 3).contiguous(memory_format=torch.channels_last),
}, "views.pt")

# What a training script saves: weights, their averages, the optimizer, its arguments.
model = nn.Linear(4, 3)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 4)).sum().backward()
optimizer.step()
torch.save({
    "epoch": 3, "loss": 0.25, "name": "tiny", "model": state(), "ema": state(100), "opt": optimizer.state_dict(),
    "args": argparse.Namespace(lr=1e-4, results_dir="results", sizes=[16, 32]),
}, "training.pt")

# Wrapped names, parameters, other pickle protocols.
torch.save({"state_dict": OrderedDict(("module.model." + name, value) for name, value in state().items()), "global_step": 5}, "wrapped.ckpt")
module = nn.Module()
module.linear = nn.Linear(4, 3)
module.register_buffer("table", torch.zeros(2))
module.load_state_dict(state())
torch.save(module.state_dict(), "state_dict.pth")
torch.save({name: nn.Parameter(value) for name, value in state().items()}, "parameters.pth", pickle_protocol=4)

# What stands in a trainer's checkpoint: classes as keys, NumPy scalars, sets, bytes, a tensor with an attribute of its own.
numpy_scalar = __import__("numpy").float64(0.5)
package = types_module("pytorch_lightning.callbacks.model_checkpoint")
package.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": package.__name__})
noted = numbers(2)
noted.note = "kept beside the values"
torch.save({
    "state_dict": OrderedDict([("first_stage_model.noted", noted), ("first_stage_model.plain", numbers(3))]), "epoch": 7,
    "callbacks": {package.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "dirpath": "checkpoints"}}, "best": numpy_scalar, "seen": {1, 2}, "raw": b"bytes",
    "counts": defaultdict(int, {"a": 1}), "shape": torch.Size([2, 3]), "device": torch.device("cpu"), "large": 1 << 80, "none": None, "pair": (True, -5, 2.5),
}, "trainer.ckpt")

# Two shards with their index.
shards = {"pytorch_model-00001-of-00002.bin": ["linear.weight"], "pytorch_model-00002-of-00002.bin": ["linear.bias", "table"]}
for file, names in shards.items():
    torch.save({name: state()[name] for name in names}, file)
with open("pytorch_model.bin.index.json", "w") as index:
    json.dump({"metadata": {"total_size": 68}, "weight_map": {name: file for file, names in shards.items() for name in names}}, index, indent=2)


# Image models as they are published, of 8 channels and one block: names, shapes and nesting of PixArt-XL-2-512x512.pth, DiT-XL-2-256x256.pt and Latte's ucf101.pt.
def small(*shape):
    return torch.randn(*shape) * 0.3


def layer(name, *shape):
    return {name + ".weight": small(*shape), name + ".bias": small(shape[0])}


def image_model(c=8):
    return {
        "pos_embed": small(1, 4, c), **layer("x_embedder.proj", c, 4, 2, 2), **layer("t_embedder.mlp.0", c, 256), **layer("t_embedder.mlp.2", c, c),
        **layer("blocks.0.attn.qkv", 3 * c, c), **layer("blocks.0.attn.proj", c, c), **layer("blocks.0.mlp.fc1", 4 * c, c), **layer("blocks.0.mlp.fc2", c, 4 * c),
        **layer("final_layer.linear", 32, c),
    }


def dit(c=8):
    return {**image_model(), "y_embedder.embedding_table.weight": small(4, c), **layer("blocks.0.adaLN_modulation.1", 6 * c, c), **layer("final_layer.adaLN_modulation.1", 2 * c, c)}


def pixart(c=8):
    return {
        **image_model(), **layer("t_block.1", 6 * c, c), "y_embedder.y_embedding": small(3, 5), **layer("y_embedder.y_proj.fc1", c, 5), **layer("y_embedder.y_proj.fc2", c, c),
        "blocks.0.scale_shift_table": small(6, c), **layer("blocks.0.cross_attn.q_linear", c, c), **layer("blocks.0.cross_attn.kv_linear", 2 * c, c),
        **layer("blocks.0.cross_attn.proj", c, c), "final_layer.scale_shift_table": small(2, c),
    }


torch.save({"state_dict": OrderedDict(pixart())}, "pixart.pth")
torch.save(OrderedDict(dit()), "dit.pt")
torch.save({"ema": OrderedDict({**dit(), "temp_embed": small(1, 3, 8)})}, "latte.pt")


# What must be refused.
class Command:
    def __reduce__(self):
        return os.system, ("touch opensora-command-was-run",)


torch.save({**state(), "extra": Command()}, "command.pth")
torch.save(model, "whole_model.pth")
torch.save(state(), "legacy.pth", _use_new_zipfile_serialization=False)
torch.jit.script(model).save("script.pt")
