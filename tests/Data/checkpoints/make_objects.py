"""Makes the PyTorch checkpoints with configuration objects and with averages beside it, with torch 1.13.1 and NumPy. Run it in this folder:
python3 make_objects.py. The files misc.pth, omega.ckpt, simplens.pth and lucid.pt came with reports of users."""
import datetime
import enum
import sys
import types
from collections import OrderedDict

import numpy
import torch


def module(name):
    """An importable module that is empty."""
    parts = name.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[:i + 1]), types.ModuleType(".".join(parts[:i + 1])))
    return sys.modules[name]


def member(owner, kind, name=None):
    """A class that pickles as a member of a module."""
    kind.__module__, kind.__qualname__ = owner, name or kind.__name__
    setattr(module(owner), kind.__name__, kind)
    return kind


def state():
    return OrderedDict([("weight", torch.arange(12.0).view(3, 4)), ("bias", torch.arange(12.0, 15.0))])


class ZeroStageEnum(int, enum.Enum):
    weights = 3


class DictConfig:
    def __init__(self, content):
        self.__dict__["_content"] = content


class ListConfig(list):
    pass


class Outer:
    class Inner(enum.Enum):
        one = 1


for name, kind in {"deepspeed.runtime.zero.config": ZeroStageEnum, "omegaconf.dictconfig": DictConfig, "omegaconf.listconfig": ListConfig, "my.settings": Outer}.items():
    member(name, kind)
Outer.Inner.__module__, Outer.Inner.__qualname__ = "my.settings", "Outer.Inner"


def objects():
    return {
        "config": DictConfig({"lr": 1e-4, "layers": ListConfig([1, 2]), "device": torch.device("cuda", 0)}), "stage": ZeroStageEnum.weights, "inner": Outer.Inner.one,
        "ns": types.SimpleNamespace(a=1), "complex": 1 + 2j, "frozen": frozenset({1, 2}), "when": datetime.datetime(2024, 3, 18, 12, 30, tzinfo=datetime.timezone.utc),
        "delta": datetime.timedelta(days=1), "rng": numpy.random.default_rng(1), "old_rng": numpy.random.RandomState(1).get_state(), "scalar": numpy.float32(1.5),
        "array": numpy.arange(3), "kind": ZeroStageEnum, "when_numpy": numpy.datetime64("2024-03-18"), "range": range(3), "none": type(None), "dots": ...,
    }


for protocol in 2, 4:
    torch.save({"state_dict": state(), **objects()}, f"objects{protocol}.pth", pickle_protocol=protocol)


# Objects that hold tensors, or make them.
class Quantized:
    def __reduce__(self):
        return module("my.layers").rebuild, (torch.ones(3, 4), 0.5)


class Lazy:
    def __reduce__(self):
        return module("my.layers").rebuild, (3, 4)


def rebuild(*arguments):
    return torch.zeros(3, 4)


member("my.layers", rebuild)
torch.save({"model": {**state(), "weight": Quantized()}}, "holds_tensor.pth")
torch.save({"model": state(), "config": DictConfig({"nested": [(1, {"table": torch.ones(2)})]})}, "holds_tensor_deep.pth")
torch.save({"model": {**state(), "weight": Lazy()}}, "makes_tensor.pth")


# Averages: ema-pytorch alone, with a compiled and distributed model; torch.optim.swa_utils; a section of averages that is incomplete; two sections alike.
def prefixed(prefix, add=0):
    return {prefix + name: value + add for name, value in state().items()}


ema = {"initted": torch.tensor(True), "step": torch.tensor(7), **prefixed("online_model."), **prefixed("ema_model.", 100)}
torch.save(ema, "ema_alone.pt")
torch.save({"ema": {"initted": torch.tensor(True), "step": torch.tensor(7), **prefixed("ema_model.module._orig_mod.", 100)}, "model": prefixed("module.")}, "ema_wrapped.pt")
torch.save({"ema": {"n_averaged": torch.tensor(7), **prefixed("module.", 100)}, "model": state()}, "ema_swa.pt")
torch.save({"state_dict": {**prefixed("model."), **prefixed("ema_model.", 100)}}, "ema_beside.pt")
torch.save({"ema": {"weight": torch.ones(3, 4)}, "net": state(), "opt": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}}, "ema_incomplete.pt")
torch.save({"student": state(), "teacher": {name: value + 100 for name, value in state().items()}}, "alike.pt")
torch.save({**state(), "backup": {name: value + 100 for name, value in state().items()}}, "backup.pt")
torch.save({"ema": {"weight": torch.ones(9, 4)}, "model": {"weight": torch.ones(8, 4), "bias": torch.ones(3)}, "generator": {"other": torch.ones(1)}}, "none_fits.pt")


# 8-bit floats as torch 2.1 and later write them: a storage of bytes, and the dtype as an argument. torch 1.13 does not have the type.
class Type:
    def __init__(self, name):
        self.__module__, self.name = "torch", name
        setattr(torch, name, self)

    def __reduce__(self):
        return self.name


def _rebuild_tensor_v3(*arguments):
    raise NotImplementedError


class Tensor8:
    def __init__(self, storage, shape, strides, dtype):
        self.arguments = storage, 0, shape, strides, False, OrderedDict(), dtype

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v3, self.arguments


_rebuild_tensor_v3.__module__ = "torch._utils"
torch._utils._rebuild_tensor_v3 = _rebuild_tensor_v3
codes = torch.arange(256, dtype=torch.uint8).storage().untyped()
e4m3, e5m2, e8m0 = Type("float8_e4m3fn"), Type("float8_e5m2"), Type("float8_e8m0fnu")
torch.save({
    "e4m3": Tensor8(codes, (256,), (1,), e4m3), "e5m2": Tensor8(codes, (16, 16), (1, 16), e5m2), "e8m0": Tensor8(codes, (256,), (1,), e8m0), "bias": torch.ones(3),
}, "float8.pt")
