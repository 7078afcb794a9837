"""Folders of language models with random weights, in any shape, for what needs a model of a certain size."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from models_mgmt.inspection import ModelShape
from tests.engine.conftest import save_with_tokenizer

_FAMILIES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def random_model(folder: Path, family: str = "llama", **shape: Any) -> Path:
    """Write a model of that family, its weights in bfloat16, with a byte-level tokenizer."""
    make_config, model_class = _FAMILIES[family]
    with torch.device("meta"):
        model: Any = model_class(make_config(**shape))
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    model.tie_weights()
    return save_with_tokenizer(model, folder)


def shape_of(folder: Path) -> ModelShape:
    """What inspecting the folder's configuration tells, for tests of what is made of it."""
    config = json.loads((folder / "config.json").read_text())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return ModelShape(
        architecture=config["architectures"][0],
        model_type=config["model_type"],
        parameters=sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 2,
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"],
        head_dim=config.get("head_dim") or hidden // heads,
        tied_embeddings=config["tie_word_embeddings"],
        context_length=config["max_position_embeddings"],
        dtype="bfloat16",
        weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )
