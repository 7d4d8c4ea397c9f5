"""HyenaDNA once more, written straight from the papers with loops and O(L^2) sums, to compare with.
Slow on purpose.
"""

import math

import torch


def causal_convolution(u: torch.Tensor, k: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """`y[b, d, t] = sum_{s <= t} k[d, t - s] u[b, d, s] + skip[d] u[b, d, t]`, by a Toeplitz
    matrix.
    """
    length = u.shape[-1]
    lag = torch.arange(length)[:, None] - torch.arange(length)[None]
    toeplitz = torch.where(lag >= 0, k[:, lag.clamp(min=0)], 0)
    return torch.einsum("dts,bds->bdt", toeplitz, u) + skip[:, None] * u


def layer_norm(x, weight, bias, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def filters(p: dict, config, length: int, dtype=torch.float64) -> torch.Tensor:
    """(hyena_order - 1, d_model, length) from the parameters under one `mixer.filter_fn.`."""
    bands = (config.emb_dim - 1) // 2
    t = torch.linspace(0, 1, config.max_seq_len, dtype=dtype)[:length]
    w = 2 * math.pi * torch.arange(length, dtype=dtype) / config.max_seq_len
    f = torch.linspace(1e-4, bands - 1, bands, dtype=dtype)
    z = torch.stack([t] + [torch.cos(-fi * w) for fi in f] + [torch.sin(-fi * w) for fi in f], dim=-1)
    if "pos_emb.z" in p:
        z = p["pos_emb.z"][0, :length]
    freq = p["implicit_filter.1.freq"]
    h = torch.sin(freq * (z @ p["implicit_filter.0.weight"].T + p["implicit_filter.0.bias"]))
    for i in range(config.num_inner_mlps):
        j = 2 * (i + 1)
        h = torch.sin(freq * (h @ p[f"implicit_filter.{j}.weight"].T + p[f"implicit_filter.{j}.bias"]))
    h = h @ p[f"implicit_filter.{2 * config.num_inner_mlps + 2}.weight"].T
    deltas = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, h.shape[-1], dtype=dtype)
    h = h * (torch.exp(-t[:, None] * deltas.abs()) + config.modulation_shift)
    return h.T.reshape(config.hyena_order - 1, config.d_model, length)


def hyena(p: dict, config, u: torch.Tensor) -> torch.Tensor:
    """One operator on (batch, length, d_model), from the parameters under one `mixer.`."""
    d, order, length = config.d_model, config.hyena_order, u.shape[1]
    x = (u @ p["in_proj.weight"].T + p["in_proj.bias"]).transpose(1, 2)
    taps = config.short_filter_order
    short = p["short_filter.bias"][:, None].expand_as(x[0]).clone().repeat(len(x), 1, 1)
    for lag in range(taps):
        short[..., lag:] += p["short_filter.weight"][:, 0, taps - 1 - lag, None] * x[..., : length - lag]
    x = [short[:, i * d : (i + 1) * d] for i in range(order + 1)]
    fn = {k.removeprefix("filter_fn."): v for k, v in p.items() if k.startswith("filter_fn.")}
    k, skip = filters(fn, config, length, u.dtype), fn["bias"].reshape(order - 1, d)
    v = x[order]
    for o, i in enumerate(range(order - 1, 0, -1)):
        v = causal_convolution(v * x[i], k[o], skip[o])
    return (v * x[0]).transpose(1, 2) @ p["out_proj.weight"].T + p["out_proj.bias"]


def hidden_states(model, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """The embeddings, each block's output, and the final norm's, of a `HyenaDNAForCausalLM` and the
    like.
    """
    config, eps = model.config, model.config.layer_norm_epsilon
    p = {
        k.removeprefix("hyena.").removeprefix("backbone."): v.detach() for k, v in model.state_dict().items()
    }
    h = p["embeddings.word_embeddings.weight"][input_ids]
    states = [h]
    for i in range(config.n_layer):
        q = {k.removeprefix(f"layers.{i}."): v for k, v in p.items() if k.startswith(f"layers.{i}.")}
        mixer = {k.removeprefix("mixer."): v for k, v in q.items() if k.startswith("mixer.")}
        h = h + hyena(mixer, config, layer_norm(h, q["norm1.weight"], q["norm1.bias"], eps))
        m = layer_norm(h, q["norm2.weight"], q["norm2.bias"], eps)
        m = gelu_tanh(m @ q["mlp.fc1.weight"].T + q["mlp.fc1.bias"])
        h = h + m @ q["mlp.fc2.weight"].T + q["mlp.fc2.bias"]
        states.append(h)
    states.append(layer_norm(h, p["ln_f.weight"], p["ln_f.bias"], eps))
    return states
