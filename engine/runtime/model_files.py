"""A model folder's configuration and tokenizer, with a sentence for everything that may be wrong with them."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from engine.messages import EngineConfig
from engine.runtime.runner import ModelLoadError, PromptTokenizer
from engine.runtime.tokenizer import HuggingFaceTokenizer

logger = logging.getLogger(__name__)


def read_configuration(config: EngineConfig) -> PretrainedConfig:
    """The model's configuration. Raises ModelLoadError."""
    folder = Path(config.model_path)
    stored = _stored(folder)
    kind = stored.get("model_type")
    if "quantization_config" in stored:
        method = stored["quantization_config"].get("quant_method", "some method")
        raise _refused(f"the weights in {folder.name} are quantised by {method}, which is not supported")
    code = [name for name in stored.get("auto_map", {}).values() if isinstance(name, str)]
    if code and kind not in CONFIG_MAPPING and not config.trust_remote_code:
        raise _refused(
            f"{folder.name} brings program code of its own ({code[0].split('.')[0]}.py), which is only run for a model "
            "that an admin has flagged with trust_remote_code"
        )
    if not code and kind not in CONFIG_MAPPING:
        raise _refused(f"config.json names the model type {kind!r}, which is not known")
    try:
        read: PretrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers raises almost anything for a wrong configuration
        logger.exception("config.json can't be used")
        raise _refused(f"config.json in {folder.name} can't be used ({type(error).__name__})") from error
    return read


def read_tokenizer(config: EngineConfig, model_config: PretrainedConfig) -> PromptTokenizer:
    """The model's tokenizer. Raises ModelLoadError."""
    folder = Path(config.model_path)
    try:
        return HuggingFaceTokenizer(folder, model_config, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # as above
        logger.exception("the tokenizer can't be used")
        raise _refused(
            f"the tokenizer in {folder.name} is missing or can't be used ({type(error).__name__})"
        ) from error


def _stored(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        raise _refused(f"there is no config.json in {folder.name}") from None
    except (ValueError, OSError) as error:
        raise _refused(f"config.json in {folder.name} can't be read") from error
    if not isinstance(stored, dict):
        raise _refused(f"config.json in {folder.name} is no configuration")
    return stored


def _refused(message: str) -> ModelLoadError:
    return ModelLoadError("MODEL_LOAD_FAILED", message)
