"""What the files of a model say, and what is refused before anything is loaded."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from models_mgmt import demo
from models_mgmt.facts import facts_of, shape_of, size_label
from models_mgmt.inspection import InspectionError, ModelShape, inspect, is_native
from tests.models_mgmt.made_models import (
    GGUF_PARAMETERS,
    PARAMETERS,
    model_files,
    sharded_files,
    write_files,
    write_gguf,
)
from tests.running_server import MODELS_DIR


def test_the_demo_model_as_safetensors_and_as_gguf_says_the_same() -> None:
    folder = demo.ensure_demo_model(models_dir=MODELS_DIR, say=print)
    gguf = demo.ensure_gguf(models_dir=MODELS_DIR, say=print)
    converted, original = inspect(folder), inspect(gguf)
    assert converted.parameters == original.parameters == 134_515_008
    assert original == ModelShape(
        architecture="LlamaForCausalLM",
        model_type="llama",
        parameters=134_515_008,
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        tied_embeddings=True,
        context_length=8192,
        dtype="bfloat16",
        weight_bytes=gguf.stat().st_size,
        gguf_type="Q4_1",
        has_chat_template=True,
    )
    assert converted.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert converted.gguf_type == "Q4_1"


def test_a_folder_says_what_its_files_say(tmp_path: Path) -> None:
    shape = inspect(write_files(tmp_path / "made", model_files()))
    assert (shape.parameters, shape.dtype, shape.layers, shape.head_dim) == (PARAMETERS, "float16", 2, 8)
    assert (shape.context_length, shape.tied_embeddings, shape.has_chat_template) == (256, True, True)


def test_shards_are_added_up(tmp_path: Path) -> None:
    whole = inspect(write_files(tmp_path / "whole", model_files()))
    sharded = inspect(write_files(tmp_path / "sharded", sharded_files()))
    assert sharded.parameters == whole.parameters
    assert sharded.weight_bytes == sum(path.stat().st_size for path in (tmp_path / "sharded").glob("*.safetensors"))


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_may_be_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    folder = write_files(tmp_path / "made", model_files(chat=False))
    assert not inspect(folder).has_chat_template
    (folder / name).write_text("{}")
    assert inspect(folder).has_chat_template


@pytest.mark.parametrize(
    ("said", "tied"), [({"tie_word_embeddings": False}, False), ({"tie_word_embeddings": None}, True)]
)
def test_tied_embeddings_go_by_the_config_else_by_the_weights(
    tmp_path: Path, said: dict[str, bool | None], tied: bool
) -> None:
    assert inspect(write_files(tmp_path / "made", model_files(**said))).tied_embeddings is tied


def test_names_of_other_families_are_known(tmp_path: Path) -> None:
    files = model_files(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", hidden_size=None, n_embd=32, num_attention_heads=None,
        n_head=4, num_hidden_layers=None, n_layer=2, max_position_embeddings=None, n_positions=128,
        intermediate_size=None, n_inner=None, num_key_value_heads=None,
    )  # fmt: skip
    shape = inspect(write_files(tmp_path / "made", files))
    assert (shape.hidden_size, shape.heads, shape.kv_heads, shape.layers) == (32, 4, 4, 2)
    assert (shape.intermediate_size, shape.context_length) == (128, 128)


def test_pickles_and_code_are_seen_and_not_read(tmp_path: Path) -> None:
    files = model_files(auto_map={"AutoModelForCausalLM": "modeling.Mine"}, torch_dtype="float16")
    weights = files.pop("model.safetensors")
    shape = inspect(write_files(tmp_path / "made", {**files, "pytorch_model.bin": weights}))
    assert (shape.has_pickle, shape.has_remote_code) == (True, True)
    assert shape.parameters == len(weights) // 2


def cut_weights(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = files["model.safetensors"][:-100]


def long_header(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = struct.pack("<Q", 2**60) + files["model.safetensors"][8:]


def escaping_index(files: dict[str, bytes]) -> None:
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../secret.safetensors"}}).encode()


def missing_shard(files: dict[str, bytes]) -> None:
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "b.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda files: files.pop("config.json"), "There is no config.json"),
        (lambda files: files.update({"config.json": b"{"}), "config.json is no valid JSON"),
        (lambda files: files.update({"config.json": b"[" * 100_000}), "config.json is no valid JSON"),
        (lambda files: files.update({"config.json": b"[]"}), "config.json holds no JSON object"),
        (lambda files: files.pop("model.safetensors"), "There are no weights"),
        (lambda files: files.update({"x.gguf": files.pop("model.safetensors")}), "name one of them instead"),
        (cut_weights, "it is cut short or damaged"),
        (long_header, "its header is damaged"),
        (lambda files: files.update({"model.safetensors": b""}), "cut short"),
        (escaping_index, "names a file that is none of the folder's"),
        (missing_shard, "names b.safetensors, which is missing"),
    ],
)
def test_a_broken_folder_is_refused_with_a_sentence(tmp_path: Path, damage: object, complaint: str) -> None:
    files = model_files()
    damage(files)  # type: ignore[operator]
    with pytest.raises(InspectionError, match=complaint) as refusal:
        inspect(write_files(tmp_path / "made", files))
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"num_hidden_layers": None}, "gives no num_hidden_layers"),
        ({"hidden_size": "wide"}, "gives hidden_size as 'wide'"),
        ({"num_attention_heads": 0}, "gives num_attention_heads as '0'"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no model that continues text"),
        ({"is_encoder_decoder": True}, "is no model that continues text"),
        ({"quantization_config": {"quant_method": "gptq"}}, "stored quantised by gptq"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_by_name(
    tmp_path: Path, config: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InspectionError, match=complaint):
        inspect(write_files(tmp_path / "made", model_files(**config)))


def test_a_gguf_file_tells_everything_in_its_header(tmp_path: Path) -> None:
    shape = inspect(write_gguf(tmp_path / "made.gguf", heads_kv=[2, 1]))
    assert (shape.vocab_size, shape.layers, shape.kv_heads, shape.gguf_type) == (259, 2, 2, "F16")
    assert (shape.parameters, shape.tied_embeddings, shape.has_chat_template) == (GGUF_PARAMETERS, True, True)


def test_a_gguf_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InspectionError, match="a model of the kind 'whisper'"):
        inspect(write_gguf(tmp_path / "made.gguf", architecture="whisper"))


def test_one_part_of_several_gguf_files_is_refused_with_what_to_do(tmp_path: Path) -> None:
    part = write_gguf(tmp_path / "made-00001-of-00003.gguf", parts=3)
    with pytest.raises(InspectionError, match=r"is one of the 3 parts of a model; put them together .*gguf-split"):
        inspect(part)


def test_a_gguf_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "made.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (*range(0, 200, 7), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InspectionError, match=r"can't be read as a GGUF file|is cut short"):
            inspect(path)


def test_no_damaged_byte_of_a_gguf_header_does_more_than_be_refused(tmp_path: Path) -> None:
    whole = bytearray(write_gguf(tmp_path / "made.gguf").read_bytes())
    path = tmp_path / "damaged.gguf"
    for position in range(600):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with suppress(InspectionError):
            inspect(path)


@pytest.mark.parametrize(
    ("model_type", "native"),
    [("llama", True), ("qwen2", True), ("mine", False), ("../llama", False), ("", False), ("_", False)],
)
def test_what_transformers_knows_is_seen_without_importing_it(model_type: str, native: bool) -> None:
    assert is_native(model_type) is native


@pytest.mark.parametrize(
    ("parameters", "label"),
    [
        (25_000, "25K"), (134_515_008, "135M"), (999_600_000, "1B"), (1_235_814_400, "1.2B"), (3_000_000_000, "3B"),
        (6_738_415_616, "7B"), (8_030_261_248, "8B"), (70_553_706_496, "71B"),
    ],
)  # fmt: skip
def test_sizes_are_said_as_models_are_called(parameters: int, label: str) -> None:
    assert size_label(parameters) == label


@pytest.mark.parametrize(
    ("chat", "name", "kind", "capabilities"),
    [
        (False, "llama-7b", "base", ["text-generation"]),
        (True, "llama-7b-chat", "chat", ["text-generation", "chat"]),
        (True, "Llama-3-Instruct", "instruct", ["text-generation", "instruct"]),
        (False, "no-template-instruct", "base", ["text-generation"]),
    ],
)
def test_type_and_capabilities_follow_from_the_files(
    tmp_path: Path, chat: bool, name: str, kind: str, capabilities: list[str]
) -> None:
    facts = facts_of(inspect(write_files(tmp_path / "made", model_files(chat=chat))), name)
    assert (facts["type"], facts["capabilities"]) == (kind, capabilities)
    assert shape_of(facts["shape"]) == inspect(tmp_path / "made")


def test_a_kept_shape_of_another_version_counts_as_none() -> None:
    assert shape_of({"parameters": 1}) is None
    assert shape_of(None) is None
