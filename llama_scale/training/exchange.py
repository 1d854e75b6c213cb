"""Models to and from the folders that Hugging Face's transformers reads: config, safetensors, tokenizer.

A LLaMA with QK-norm is what transformers calls Qwen3, name for name; one without is its Llama.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llama_scale.architecture import ModelConfig
from llama_scale.errors import InputError
from llama_scale.files import parse_json, publish_folder
from llama_scale.training.model import Llama
from llama_scale.training.tokenizer import (
    END_OF_DOCUMENT,
    LIBRARY_FILE,
    AnyTokenizer,
    GivenTokenizer,
    Tokenizer,
    from_library,
    read_library,
    same_ids,
    to_library,
)

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", LIBRARY_FILE, "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Names of ours and theirs, within a block and outside.
BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
OUTER_NAMES = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
THEIR_HEAD = "lm_head.weight"
# Types whose numbers are the weights themselves: narrower ones need the scales that lie beside them.
WEIGHT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def write_hf(folder: Path, model: Llama, tokenizer: AnyTokenizer | None) -> None:
    """Publish `folder` with what AutoModelForCausalLM and AutoTokenizer load; it must not exist yet.

    Raises InputError where it does, StoreError where the disk refuses.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already", hint="name another folder with --output, or move it")
    weights = {_their_name(name): p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    with publish_folder(folder) as new:
        (new / CONFIG).write_text(json.dumps(hf_config(model.config, tokenizer), indent=1) + "\n")
        (new / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
        for name, text in _tokenizer_files(tokenizer, model.config.context).items() if tokenizer else ():
            (new / name).write_text(text, encoding="utf-8")


def _tokenizer_files(tokenizer: AnyTokenizer, context: int) -> Mapping[str, str]:
    """What AutoTokenizer reads, by name: the files that were given, or those of a tokenizer of ours."""
    if isinstance(tokenizer, GivenTokenizer):
        return tokenizer.files
    stated = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_DOCUMENT,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        # text that spells the end of a document is text, as when the model was trained
        "split_special_tokens": True,
    }
    return {
        TOKENIZER: to_library(tokenizer).to_str(pretty=True),
        TOKENIZER_CONFIG: json.dumps(stated, indent=1),
    }


def hf_config(config: ModelConfig, tokenizer: AnyTokenizer | None = None) -> dict[str, Any]:
    """The config.json of a shape, as transformers 4 and 5 read it."""
    kind = "qwen3" if config.qk_norm else "llama"
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_document if tokenizer else None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def read_hf(folder: str | Path) -> Llama:
    """The model of a folder that transformers wrote, or `write_hf`, in 32 bits.

    Raises InputError for another architecture, for biases or scaled rotations, and for tensors that are
    missing, of another shape, quantised, not finite, or no part of such a model.
    """
    path = Path(folder)
    config = read_shape(path)
    theirs = _read_tensors(path)
    with torch.device("meta"):
        needed = {_their_name(name): p.shape for name, p in Llama(config).named_parameters()}
    for name in sorted(needed.keys() | theirs.keys()):
        if problem := _tensor_problem(name, theirs.get(name), needed.get(name), config):
            raise InputError(
                f"{path}: {name} {problem}", hint="check that config.json belongs to these weights"
            )
    model = Llama(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(theirs[_their_name(name)])
            if not parameter.isfinite().all():
                raise InputError(
                    f"{path}: {_their_name(name)} holds numbers that are not finite in 32 bits",
                    hint="download or export it again, from a model that has not diverged",
                )
    return model


def _tensor_problem(
    name: str, tensor: Tensor | None, needed: torch.Size | None, config: ModelConfig
) -> str | None:
    """What is amiss with a tensor of the file, or with its absence; None where it is as it should be."""
    if needed is None:
        # tables that older files keep, and the copy of a tied head: transformers reads neither
        known = name.endswith(".rotary_emb.inv_freq") or (config.tied_head and name == THEIR_HEAD)
        return None if known else "is no part of the model that config.json describes"
    if tensor is None:
        return f"is missing, {tuple(needed)} is needed"
    if tensor.shape != needed:
        return f"has shape {tuple(tensor.shape)}, {tuple(needed)} is needed"
    if tensor.dtype not in WEIGHT_TYPES:
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}, but must be of float16 or wider"
    return None


def read_shape(path: Path) -> ModelConfig:
    """The shape that the config.json of such a folder states; raises InputError for what is not ours."""
    content = _read_json(path / CONFIG)
    kind = content.get("model_type")
    rotation = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if not isinstance(rotation, dict):
        raise _garbled(path, "rope_parameters", rotation)
    turned = [stated.get("partial_rotary_factor") for stated in (content, rotation)]
    refused = {
        f"model_type {kind!r}": kind not in tuple(ARCHITECTURES),
        "biases": bool(content.get("attention_bias") or content.get("mlp_bias")),
        "scaled rotary positions": rotation.get("rope_type", rotation.get("type", "default")) != "default",
        "rotations of parts of heads": any(share not in (None, 1) for share in turned),
        f"hidden_act {content.get('hidden_act')!r}": content.get("hidden_act", "silu") != "silu",
        "a sliding window": bool(content.get("use_sliding_window")),
        "quantised weights": bool(content.get("quantization_config")),
    }
    for what, is_there in refused.items():
        if is_there:
            raise InputError(
                f"{path / CONFIG} describes a model with {what}, which is no LLaMA of ours",
                hint=f"import one of {', '.join(ARCHITECTURES)} without biases or scaled positions",
            )

    def number(key: str, type_: type, default: float | None = None) -> Any:
        """What `key` says, or, where it says nothing, what transformers takes it for."""
        value = rotation.get(key, content.get(key))
        value = default if value is None else value
        is_number = isinstance(value, (type_, int)) and not isinstance(value, bool)
        if value is None or not is_number or not 0 < value < math.inf:
            raise _garbled(path, key, value)
        return type_(value)

    width, heads = number("hidden_size", int), number("num_attention_heads", int)
    return ModelConfig(
        layers=number("num_hidden_layers", int),
        width=width,
        heads=heads,
        kv_heads=number("num_key_value_heads", int, heads),
        head_size=number("head_dim", int, width // heads),
        hidden=number("intermediate_size", int),
        vocabulary=number("vocab_size", int),
        context=number("max_position_embeddings", int),
        tied_head=bool(content.get("tie_word_embeddings", False)),
        qk_norm=kind == "qwen3",
        norm_epsilon=number("rms_norm_eps", float, 1e-6),
        rope_theta=number("rope_theta", float, 10_000.0),  # LLaMA's first files do not state it
    )


def _garbled(path: Path, key: str, value: object) -> InputError:
    stated = f"lacks {key}" if value is None else f"garbles {key}: it is {value!r}"
    return InputError(f"{path / CONFIG} {stated}", hint="export the model again with save_pretrained")


def read_tokenizer(folder: Path, vocabulary: int) -> AnyTokenizer:
    """The tokenizer that lies beside a model in `folder`; documents end by its eos_token.

    Raises InputError for one that is no BPE, has ids beyond `vocabulary` or no such token, or cannot be read.
    """
    place = folder / TOKENIZER
    _read_json(place)
    try:
        files = {n: (folder / n).read_text("utf-8") for n in TOKENIZER_FILES if (folder / n).exists()}
        library = read_library(files[TOKENIZER])
        ours = from_library(library)
    except Exception as error:  # the library has no narrower one
        raise _unreadable(place, error, "name a folder that save_pretrained wrote") from error
    ids, end = library.get_vocab().values(), _end_of_document(folder, library)
    refused = {
        "is no BPE": not isinstance(library.model, tokenizers.models.BPE),  # GPT-2's file does not say so
        f"has ids beyond a vocabulary of {vocabulary:,}": max(ids, default=0) >= vocabulary,
        f"has no token that {TOKENIZER_CONFIG} or {CONFIG} call the end of a text": end is None,
    }
    for what, is_so in refused.items():
        if is_so:
            raise InputError(
                f"{place} {what}",
                hint="give a folder whose tokenizer is its model's, and leave out data.vocabulary",
            )
    if ours and (ours.vocabulary, ours.end_of_document) == (vocabulary, end):
        return ours
    return GivenTokenizer(files=files, vocabulary=vocabulary, end_of_document=end or 0)


def _end_of_document(folder: Path, library: tokenizers.Tokenizer) -> int | None:
    """The id of the tokenizer's eos_token, or where it states none the model's eos_token_id, or its first."""
    place = folder / TOKENIZER_CONFIG
    name = _read_json(place).get("eos_token") if place.exists() else None
    if name is not None:
        return library.token_to_id(str(name.get("content") if isinstance(name, dict) else name))
    stated = _read_json(folder / CONFIG).get("eos_token_id")
    end = stated[0] if isinstance(stated, list) and stated else stated
    return end if type(end) is int and end in library.get_vocab().values() else None


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raises InputError unless the ids of the folder's model mean what those of `tokenizer` do."""
    if not same_ids(_read_json(folder / TOKENIZER), tokenizer):
        raise InputError(
            f"{folder / TOKENIZER} is not the tokenizer of this text ({tokenizer.kind}, "
            f"{tokenizer.vocabulary:,} entries): ids would mean other tokens to the model",
            hint="leave out data.tokenizer and data.vocabulary: then the model's own tokenizer cuts the text",
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, or of the parts that an index names."""
    parts = [WEIGHTS]
    if (path / INDEX).exists():
        places = _read_json(path / INDEX).get("weight_map")
        if not isinstance(places, dict) or not places or not all(isinstance(p, str) for p in places.values()):
            raise InputError(
                f"{path / INDEX} does not say in which file each tensor is", hint="download it again"
            )
        parts = sorted(set(places.values()))
    tensors: dict[str, Tensor] = {}
    for part in parts:
        if Path(part).name != part:
            raise InputError(f"{path / INDEX} names {part!r}, outside its folder", hint="download it again")
        try:
            tensors |= load((path / part).read_bytes())
        except (OSError, SafetensorError) as error:
            raise _unreadable(path / part, error, "it must be of safetensors: get it again") from error
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "name a folder that save_pretrained wrote") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no object", hint="name a folder that save_pretrained wrote")
    return content


def _unreadable(path: Path, error: Exception, hint: str) -> InputError:
    reason = getattr(error, "strerror", None) or error  # the system's own words would name the path again
    return InputError(f"{path} cannot be read: {reason}", hint=hint)


def _their_name(name: str) -> str:
    """transformers' name of one of our parameters."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return f"model.layers.{parts[1]}.{BLOCK_NAMES['.'.join(parts[2:-1])]}.{parts[-1]}"
    return f"{OUTER_NAMES[parts[0]]}.{parts[-1]}"


def shape_line(config: ModelConfig) -> str:
    """The shape in a few words, for who exports it."""
    words = ("layers", "width", "heads", "kv_heads", "vocabulary", "context")
    return ", ".join(f"{name.replace('_', ' ')} {getattr(config, name):,}" for name in words)
