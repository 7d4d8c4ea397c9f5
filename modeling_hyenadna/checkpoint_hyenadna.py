"""What is checked in the files of a checkpoint before they are loaded."""

import torch
from safetensors import safe_open
from transformers.modeling_utils import PreTrainedModel, load_state_dict
from transformers.utils import logging

from .configuration_hyenadna import HyenaDNAConfig
from .implicit_filter import HyenaDNAFilter, HyenaDNAPositionalEmbedding

logger = logging.get_logger(__name__)


def check_checkpoint(
    config: HyenaDNAConfig, model: PreTrainedModel, state_dict, checkpoint_files, load_config
) -> None:
    """Refuse an embedding of another size, and recognize a trained positional embedding.

    The first published port trained `pos_emb.z`. The filters of such a checkpoint get a parameter
    for it: with the analytic `z` they would be others. Of the two ways to compute `z`, which differ
    by one rounding, the one nearer to the file is set.

    Raises:
        RuntimeError: The embedding has another size (the library's error for sizes that do not
            match).
        ValueError: A trained `z` is of another length than the configuration says.
    """
    formulas = {}
    trained = False
    for name, tensor in _stored_tensors(
        state_dict, checkpoint_files, ("word_embeddings.weight", "pos_emb.z")
    ):
        if name.endswith("word_embeddings.weight"):
            if not load_config.ignore_mismatched_sizes:
                _check_embedding(name, tensor, config)
            continue

        length = tensor.shape[1]
        if length not in formulas:
            formulas[length] = _positional_embeddings(config, length)
        way = _matching_formula(tensor, formulas[length], config)
        if way is not None:
            config.complex_positional_embedding = way
        elif length == config.max_seq_len:
            trained = True
        else:
            raise ValueError(
                f"`{name}` of the checkpoint was trained for max_seq_len={length}, but the "
                f"configuration says {config.max_seq_len}. A trained positional embedding has no other "
                f"length: load it with {length}."
            )
    if trained and not config.train_positional_embedding:
        _make_trainable(config, model)


def _check_embedding(name: str, tensor: torch.Tensor, config: HyenaDNAConfig) -> None:
    expected = (config.vocab_size, config.d_model)
    if tuple(tensor.shape) != expected:
        raise RuntimeError(
            f"`{name}` of the checkpoint has shape {tuple(tensor.shape)}, but the configuration says "
            f"vocab_size={expected[0]} rows and d_model={expected[1]}. Correct config.json, or load with the "
            "checkpoint's own sizes and call `resize_token_embeddings`, or pass "
            "`ignore_mismatched_sizes=True` for a new embedding."
        )


def _matching_formula(
    tensor: torch.Tensor, formulas: dict[bool, torch.Tensor], config: HyenaDNAConfig
) -> bool | None:
    """Return the `complex_positional_embedding` that gave `z`; `None` if `z` was trained."""
    if tensor.shape != (1, tensor.shape[1], config.emb_dim):
        return None
    # Compare in the type of the file. Other machines differ by a few roundings.
    tolerance = 8 * config.emb_dim * torch.finfo(tensor.dtype).eps
    errors = {}
    for way, z in formulas.items():
        errors[way] = (tensor.float() - z.to(tensor.dtype).float()).abs().max().item()
    nearest = min(errors, key=errors.__getitem__)
    return nearest if errors[nearest] <= tolerance else None


def _make_trainable(config: HyenaDNAConfig, model: PreTrainedModel) -> None:
    """Give every filter a parameter `z`, for the loader to fill."""
    logger.warning(
        "The checkpoint holds a trained positional embedding `pos_emb.z`, which differs from the "
        "formula. It is loaded as a parameter (train_positional_embedding=True)."
    )
    config.train_positional_embedding = True
    for module in model.modules():
        if isinstance(module, HyenaDNAFilter):
            module.pos_emb = HyenaDNAPositionalEmbedding(module.config).to(
                module.bias.device, module.bias.dtype
            )


def _positional_embeddings(config: HyenaDNAConfig, length: int) -> dict[bool, torch.Tensor]:
    """Return `z`, (1, length, emb_dim), computed in both ways.

    The way of the configuration comes first, so it wins a tie.
    """
    cpu = torch.device("cpu")
    formulas = {}
    for way in (config.complex_positional_embedding, not config.complex_positional_embedding):
        sizes = HyenaDNAConfig(emb_dim=config.emb_dim, max_seq_len=length, complex_positional_embedding=way)
        with cpu:
            z, _ = HyenaDNAPositionalEmbedding(sizes).analytic(length, cpu)
        formulas[way] = z[None]
    return formulas


def _stored_tensors(state_dict, checkpoint_files, endings: tuple[str, ...]):
    """Yield the name and tensor of what the checkpoint holds under these endings, one at a time."""
    if state_dict is not None or not checkpoint_files:
        yield from ((k, v) for k, v in (state_dict or {}).items() if k.endswith(endings))
        return
    for file in checkpoint_files:
        if str(file).endswith(".safetensors"):
            with safe_open(file, framework="pt", device="cpu") as f:
                yield from ((k, f.get_tensor(k)) for k in f.keys() if k.endswith(endings))  # noqa: SIM118
        else:
            yield from ((k, v) for k, v in load_state_dict(file).items() if k.endswith(endings))
