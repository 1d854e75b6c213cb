"""The same weights in transformers: logits, loss, gradients, tokens; and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from llama_scale.architecture import ModelConfig
from llama_scale.errors import InputError
from llama_scale.training.exchange import read_hf, write_hf
from llama_scale.training.model import Llama
from llama_scale.training.scaling import initialise
from llama_scale.training.tokenizer import Tokenizer, byte_tokenizer, train_bpe

transformers = pytest.importorskip("transformers", reason="the test extra is not installed")

SHAPE = ModelConfig(
    layers=3, width=48, heads=4, kv_heads=4, head_size=12, hidden=112, vocabulary=320, context=40
)
SHAPES = {
    "multi-head": SHAPE,
    "grouped": replace(SHAPE, kv_heads=2, norm_epsilon=1e-6),
    "multi-query, tied": replace(SHAPE, kv_heads=1, tied_head=True),
    "QK-norm": replace(SHAPE, kv_heads=2, qk_norm=True, rope_theta=500.0),
    "wide heads": replace(SHAPE, heads=2, kv_heads=2, head_size=32, tied_head=True),
}
TEXTS = [
    "def f(x):\n    return x + 12345  # naïve 🦙\n",
    "import os\n\n\nclass Law:\n    '''Loss.'''\n",
    "  \t tabs, and   runs of spaces\r\n\r\nend",
    "text that spells <|endofdoc|> is text",
]


def made(config: ModelConfig) -> Llama:
    model = Llama(config)
    initialise(model, 3, 0.7)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:  # norms away from one, or a swapped pair would go unseen
                generator = torch.Generator().manual_seed(index)
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    sources = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))[:12]]
    return train_bpe(sources, 320)


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_finds_the_same_logits_loss_and_gradients(name: str, tmp_path: Path) -> None:
    ours = made(SHAPES[name])
    write_hf(tmp_path / "hf", ours, None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(320, size=(3, 41)))
    expected = theirs(tokens[:, :-1]).logits.detach()
    assert (ours(tokens[:, :-1]) - expected).abs().max() <= 1e-5 * expected.abs().max()
    loss = ours.loss(tokens[:, :-1], tokens[:, 1:])
    their_loss = theirs(tokens, labels=tokens).loss
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    loss.backward()
    their_loss.backward()
    write_hf(tmp_path / "gradients", gradients_as_weights(ours), None)
    found = {name: p.grad for name, p in theirs.named_parameters()}
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gradients", dtype=torch.float32)
    for parameter_name, gradient in read.named_parameters():
        other = found[parameter_name]
        assert (gradient - other).norm() <= 1e-5 * other.norm(), parameter_name


def gradients_as_weights(model: Llama) -> Llama:
    """A model whose weights are the gradients of another: their names then go the way of the weights."""
    copy = Llama(model.config)
    with torch.no_grad():
        for parameter, original in zip(copy.parameters(), model.parameters(), strict=True):
            assert original.grad is not None
            parameter.copy_(original.grad)
    return copy


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_comes_back_as_it_went(name: str, tmp_path: Path) -> None:
    ours = made(SHAPES[name])
    write_hf(tmp_path / "hf", ours, None)
    back = read_hf(tmp_path / "hf")
    assert back.config == ours.config
    for (_, one), (_, other) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_that_transformers_saved_in_parts_are_read(tmp_path: Path) -> None:
    write_hf(tmp_path / "one", made(SHAPE), None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="60kB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for one, other in zip(made(SHAPE).parameters(), read_hf(tmp_path / "parts").parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_auto_tokenizer_gives_the_same_ids(kind: str, bpe: Tokenizer, tmp_path: Path) -> None:
    ours = bpe if kind == "bpe" else byte_tokenizer()
    write_hf(tmp_path / "hf", made(replace(SHAPE, vocabulary=ours.vocabulary)), ours)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = [*TEXTS, Path(__file__).read_text()]
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        assert theirs(text)["input_ids"] == ids[:-1].tolist()
        assert theirs.decode(ids[:-1]) == text
    assert theirs.eos_token_id == ours.end_of_document
    assert len(theirs) == ours.vocabulary


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(InputError, match="is there already"):
        write_hf(tmp_path / "hf", made(SHAPE), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"attention_bias": True}, "biases"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scaled rotary"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled rotary"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"num_attention_heads": 0, "head_dim": None}, "garbles num_attention_heads: it is 0"),
        ({"hidden_size": None}, "config.json lacks hidden_size"),
        ({"hidden_size": 48.5}, "garbles hidden_size: it is 48.5"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"rope_parameters": ["default"]}, "garbles rope_parameters"),
        ({"rope_parameters": {"rope_theta": 0}}, "garbles rope_theta: it is 0"),
        ({"partial_rotary_factor": 0.5}, "rotations of parts of heads"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised weights"),
        ({"vocab_size": 10**12}, "has shape"),
        ({"num_hidden_layers": 4}, "layers.3"),
        ({"num_hidden_layers": 2}, r"layers\.2\.\S+ is no part of the model"),
        ({"intermediate_size": 96}, "has shape"),
    ],
)
def test_what_is_not_ours_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", made(SHAPE), None)
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        read_hf(tmp_path / "hf")


def test_a_config_that_leaves_out_what_llama_has_is_read_as_transformers_does(tmp_path: Path) -> None:
    """The first LLaMA's files state neither the base of rotations nor KV heads, and keep rotation tables."""
    ours = made(replace(SHAPE, norm_epsilon=1e-6))
    write_hf(tmp_path / "hf", ours, None)
    file, weights = tmp_path / "hf" / "config.json", tmp_path / "hf" / "model.safetensors"
    stated = json.loads(file.read_text())
    for key in ("rope_theta", "rope_parameters", "num_key_value_heads", "head_dim", "rms_norm_eps"):
        del stated[key]
    file.write_text(json.dumps(stated))
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    weights.write_bytes(save({**load(weights.read_bytes()), **table}))
    back = read_hf(tmp_path / "hf")
    assert back.config == ours.config
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokens = torch.arange(40)[None]
    assert torch.allclose(back(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.layers.0.self_attn.q_proj.bias", torch.ones(48), "is no part of the model"),
        ("model.norm.weight", torch.ones(48, dtype=torch.int8), "is of type int8"),
        ("model.norm.weight", torch.ones(48).to(torch.float8_e4m3fn), "is of type float8_e4m3fn"),
        ("model.norm.weight", torch.full((48,), float("nan")), "not finite"),
        ("model.norm.weight", torch.full((48,), 1e300, dtype=torch.float64), "not finite"),
    ],
)
def test_tensors_that_are_not_the_models_weights_are_refused(
    name: str, tensor: torch.Tensor, message: str, tmp_path: Path
) -> None:
    write_hf(tmp_path / "hf", made(SHAPE), None)
    weights = tmp_path / "hf" / "model.safetensors"
    weights.write_bytes(save({**load(weights.read_bytes()), name: tensor}))
    with pytest.raises(InputError, match=message):
        read_hf(tmp_path / "hf")


@pytest.mark.parametrize("places", [None, {}, ["model.safetensors"], {"lm_head.weight": 1}])
def test_an_index_that_names_no_files_is_refused(places: object, tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", made(SHAPE), None)
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match="does not say in which file"):
        read_hf(tmp_path / "hf")


def test_torn_weights_and_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", made(SHAPE), None)
    weights = tmp_path / "hf" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        read_hf(tmp_path / "hf")
    weights.unlink()  # as of models that were saved as pytorch_model.bin
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read: No such file or directory$"):
        read_hf(tmp_path / "hf")
    (tmp_path / "outside.safetensors").write_bytes(save({}))
    index = {"weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside its folder"):
        read_hf(tmp_path / "hf")
