"""CLIP's text encoder computed layer by layer on random weights: clip_*.safetensors. Usage: clip.py FOLDER"""
import torch
import torch.nn.functional as F

from tensors import folder, save

TOKENS, WIDTH, HIDDEN, HEADS, LAYERS, PLACES, PROJECTION = 60, 16, 24, 4, 2, 9, 6
END = TOKENS - 1


def compute(quick, with_projection):
    weights = {"text_model.embeddings.token_embedding.weight": torch.randn(TOKENS, WIDTH), "text_model.embeddings.position_embedding.weight": torch.randn(PLACES, WIDTH) * 0.5}

    def linear(x, name, outputs, bias=True):
        weights[name + ".weight"] = torch.randn(outputs, x.shape[-1]) / x.shape[-1] ** 0.5
        if bias:
            weights[name + ".bias"] = torch.randn(outputs) * 0.2
        return F.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))

    def norm(x, name):
        weights[name + ".weight"] = 1 + 0.3 * torch.randn(WIDTH)
        weights[name + ".bias"] = 0.2 * torch.randn(WIDTH)
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name + ".weight"] + weights[name + ".bias"]

    ids = torch.randint(0, END, (3, PLACES))
    for row, place in enumerate((3, 0, PLACES - 1)):
        ids[row, place] = END
    ids[0, 6] = END
    x = weights["text_model.embeddings.token_embedding.weight"][ids] + weights["text_model.embeddings.position_embedding.weight"]
    later = torch.ones(PLACES, PLACES).triu(1).bool()
    for layer in range(LAYERS):
        name = f"text_model.encoder.layers.{layer}"
        h = norm(x, name + ".layer_norm1")
        q, k, v = (linear(h, f"{name}.self_attn.{part}_proj", WIDTH).unflatten(-1, (HEADS, WIDTH // HEADS)) for part in "qkv")
        logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / (WIDTH // HEADS) ** 0.5
        shares = logits.masked_fill(later, float("-inf")).softmax(-1)
        x = x + linear(torch.einsum("bhnm,bmhd->bnhd", shares, v).flatten(2), name + ".self_attn.out_proj", WIDTH)
        h = linear(norm(x, name + ".layer_norm2"), name + ".mlp.fc1", HIDDEN)
        h = h / (1 + torch.exp(-1.702 * h)) if quick else 0.5 * h * (1 + torch.erf(h / 2 ** 0.5))
        x = x + linear(h, name + ".mlp.fc2", WIDTH)
    states = norm(x, "text_model.final_layer_norm")
    pooled = torch.stack([states[0, 3], states[1, 0], states[2, PLACES - 1]])
    result = {"input.input_ids": ids, "output.states": states, "output.pooled": pooled}
    if with_projection:
        result["output.projected"] = linear(pooled, "text_projection", PROJECTION, bias=False)
    return {f"weights.{name}": value for name, value in weights.items()} | result


target = folder()
torch.manual_seed(13)
for name, quick, projection in (("clip_quick_gelu", True, True), ("clip_gelu", False, False)):
    config = {"vocab_size": TOKENS, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": PLACES,
              "hidden_act": "quick_gelu" if quick else "gelu", "projection_dim": PROJECTION if projection else None, "eos_token_id": END}
    save(f"{target}/{name}.safetensors", compute(quick, projection), config, "layer by layer, random weights")
