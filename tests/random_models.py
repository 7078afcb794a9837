"""Folders of language models with random weights, in any shape, for what needs a model of a certain size."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.engine.conftest import save_with_tokenizer

END = 2  # `</s>` of the tokenizer
_FAMILIES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def random_model(folder: Path, family: str = "llama", **shape: Any) -> Path:
    """Write a model of that family, its weights in bfloat16, with a byte-level tokenizer.

    The weights are always the same, and no greedy answer ends by itself: the score of `</s>` is 0.
    """
    generator = torch.Generator().manual_seed(1)
    make_config, model_class = _FAMILIES[family]
    with torch.device("meta"):
        model: Any = model_class(make_config(**shape))
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)
        model.tie_weights()
        model.get_output_embeddings().weight[END].zero_()
    return save_with_tokenizer(model, folder)
