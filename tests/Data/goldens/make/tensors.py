"""Reads and writes safetensors with nothing but torch."""
import array
import json
import struct
import sys

import torch

NAMES = {torch.float32: ("F32", "f"), torch.int64: ("I64", "q")}


def save(path, tensors, config, source):
    header = {"__metadata__": {"config": json.dumps(config), "source": json.dumps({"computed": source})}}
    parts, offset = [], 0
    for name, tensor in tensors.items():
        dtype, code = NAMES[tensor.dtype]
        data = array.array(code, tensor.detach().flatten().tolist()).tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def folder():
    torch.set_num_threads(1)
    return sys.argv[1] if len(sys.argv) > 1 else "."
