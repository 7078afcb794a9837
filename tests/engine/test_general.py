"""What the general path can't run right is refused when it is loaded, not answered wrong."""

from pathlib import Path

import pytest
from transformers import BloomConfig, BloomForCausalLM, JambaConfig, JambaForCausalLM, PreTrainedModel

from engine.messages import EngineConfig
from engine.runtime.runner import ModelLoadError
from engine.runtime.torch_runner import TorchRunner
from tests.engine.conftest import VOCABULARY, save_with_tokenizer


def _bloom() -> PreTrainedModel:
    """ALiBi inside its own attention, which knows no interface."""
    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4))


def _jamba() -> PreTrainedModel:
    """State-space layers, whose state is no keys and values."""
    return JambaForCausalLM(
        JambaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=1,
            num_experts_per_tok=1,
            use_mamba_kernels=False,
        )
    )


@pytest.mark.parametrize("make", [_bloom, _jamba])
def test_architectures_without_replaceable_attention_are_refused(make: "type[PreTrainedModel]", tmp_path: Path) -> None:
    folder = save_with_tokenizer(make(), tmp_path)
    with pytest.raises(ModelLoadError) as error:
        TorchRunner(EngineConfig(str(folder), quantization="fp32", context_length=128), lambda _share, _stage: None)
    assert error.value.code == "MODEL_LOAD_FAILED"
    assert "not supported" in error.value.message
