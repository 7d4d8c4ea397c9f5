"""What has to be checked in the files of a checkpoint before they are loaded."""

import torch
from safetensors import safe_open
from transformers.modeling_utils import PreTrainedModel, load_state_dict
from transformers.utils import logging

from .configuration_hyenadna import HyenaDNAConfig
from .implicit_filter import HyenaDNAFilter, HyenaDNAPositionalEmbedding

logger = logging.get_logger(__name__)


def check_checkpoint(model: PreTrainedModel, state_dict, checkpoint_files, load_config) -> None:
    """Refuse an embedding of another size, and make a positional embedding that was trained a parameter.

    The first published port trained `pos_emb.z`. Such a file must not load into filters of the analytic `z` in silence.
    Of the two ways to compute `z`, which differ by a rounding, the one that is nearer to the file is set.
    """
    config, formulas, trained = model.config, {}, False
    for name, tensor in _stored_tensors(state_dict, checkpoint_files, ("word_embeddings.weight", "pos_emb.z")):
        if name.endswith("word_embeddings.weight"):
            expected = (config.vocab_size, config.d_model)
            if tuple(tensor.shape) != expected and not load_config.ignore_mismatched_sizes:
                raise RuntimeError(  # as the library does for sizes that do not match
                    f"`{name}` of the checkpoint has shape {tuple(tensor.shape)}, but the configuration says "
                    f"vocab_size={expected[0]} rows and d_model={expected[1]}. Correct config.json, or load with the "
                    "checkpoint's own sizes and call `resize_token_embeddings`, or pass "
                    "`ignore_mismatched_sizes=True` for a new embedding."
                )
        else:
            length = tensor.shape[1]
            if length not in formulas:
                formulas[length] = _positional_embeddings(config, length)
            # Compare in the type of the file; other machines differ by a few roundings.
            tolerance = 8 * config.emb_dim * torch.finfo(tensor.dtype).eps
            if tensor.shape == (1, length, config.emb_dim):
                error = {
                    how: (tensor.float() - z.to(tensor.dtype).float()).abs().max()
                    for how, z in formulas[length].items()
                }
                nearest = min(error, key=error.get)
                if error[nearest] <= tolerance:
                    config.complex_positional_embedding = nearest
                    continue
            if length != config.max_seq_len:
                raise ValueError(
                    f"`{name}` of the checkpoint was trained for max_seq_len={length}, and the configuration says "
                    f"{config.max_seq_len}. A trained positional embedding has no other length: load it with {length}."
                )
            trained = True
    if trained and not config.train_positional_embedding:
        logger.warning(
            "The checkpoint holds a trained positional embedding `pos_emb.z`, which differs from the formula. It is "
            "loaded as a parameter (train_positional_embedding=True)."
        )
        config.train_positional_embedding = True
        for module in model.modules():
            if isinstance(module, HyenaDNAFilter):
                module.pos_emb = HyenaDNAPositionalEmbedding(module.config).to(module.bias.device, module.bias.dtype)


def _positional_embeddings(config: HyenaDNAConfig, length: int) -> dict[bool, torch.Tensor]:
    """`z` (1, length, emb_dim) by `complex_positional_embedding`, first that of the configuration."""
    formulas, cpu = {}, torch.device("cpu")
    for how in (config.complex_positional_embedding, not config.complex_positional_embedding):
        sizes = {"emb_dim": config.emb_dim, "max_seq_len": length, "complex_positional_embedding": how}
        with cpu:
            formulas[how] = HyenaDNAPositionalEmbedding(HyenaDNAConfig(**sizes)).analytic(length, cpu)[0][None]
    return formulas


def _stored_tensors(state_dict, checkpoint_files, endings: tuple[str, ...]):
    """Name and tensor of what the checkpoint holds under these endings, one at a time."""
    if state_dict is not None or not checkpoint_files:
        yield from ((k, v) for k, v in (state_dict or {}).items() if k.endswith(endings))
        return
    for file in checkpoint_files:
        if str(file).endswith(".safetensors"):
            with safe_open(file, framework="pt", device="cpu") as f:
                yield from ((k, f.get_tensor(k)) for k in f.keys() if k.endswith(endings))  # noqa: SIM118
        else:
            yield from ((k, v) for k, v in load_state_dict(file).items() if k.endswith(endings))
