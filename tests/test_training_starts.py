"""Training on from a folder of transformers: the very weights, one curve in spite of a stop, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from recipes import write_text
from single_recipe import RECIPE, train
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from llama_scale.errors import InputError, StoreError
from llama_scale.fitting.records import rows_of_records
from llama_scale.launch.single import KnownRun, Seat, prepare_run, read_single, train_single, write_run
from llama_scale.runs import INITIAL_WEIGHTS, read_record, run_folders
from llama_scale.runs.upkeep import spares
from llama_scale.training.data import data_folder, evaluation_batches, open_tokens
from llama_scale.training.exchange import read_hf, read_tokenizer, write_hf
from llama_scale.training.model import Llama
from llama_scale.training.starts import identity
from llama_scale.training.tokenizer import byte_tokenizer
from llama_scale.training.weights import load_weights
from llama_scale.training.world import ALONE

transformers = pytest.importorskip("transformers", reason="the test extra is not installed")

SEAT = Seat(device=torch.device("cpu"), world=ALONE, peak=None, has_bf16=True)
STEPS = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text, and a model with shared keys and a tied head that transformers saved there."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("starts")
    write_text(home / "text")
    first = trained(home, home / "base", {"model": "1x16"})
    [prepared] = (home / "base" / "data").iterdir()
    write_hf(home / "ours", load_weights(first.folder)[0], open_tokens(prepared).tokenizer)
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    )
    theirs.save_pretrained(home / "theirs")
    transformers.AutoTokenizer.from_pretrained(home / "ours").save_pretrained(home / "theirs")
    return home


def prepared_run(home: Path, store: Path, tables: dict[str, Any], *overrides: str) -> KnownRun:
    """The run of a recipe, written down."""
    common = {
        "steps": STEPS,
        "shape": {"context": 32},
        "data": {"source": str(home / "text"), "vocabulary": 300, "evaluation_tokens": 2048},
        "training": {"sequences_per_step": 4, "learning_rate": 1e-3, "warmup_steps": 5},
    }
    run, text = prepare_run(read_single({**common, **tables}, overrides, source="here"), store=store)
    write_run(run, text, store=store)
    return run


def go_on(run: KnownRun, *, stop: bool = False) -> str:
    store = run.folder.path.parent
    return train_single(store, run.folder.run, SEAT, should_stop=lambda: stop, watch=lambda reading: None)


def trained(home: Path, store: Path, tables: dict[str, Any], *overrides: str) -> KnownRun:
    run = prepared_run(home, store, tables, *overrides)
    assert go_on(run) == "done"
    return run


def from_theirs(home: Path) -> dict[str, Any]:
    return {"start_from": str(home / "theirs")}


def test_a_run_starts_from_the_weights_that_transformers_saved(home: Path, tmp_path: Path) -> None:
    still = ("training.learning_rate=1e-30", "training.weight_decay=0.0")
    run = trained(home, tmp_path, from_theirs(home), *still)
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "theirs", dtype=torch.float32)
    [prepared] = (tmp_path / "data").iterdir()
    total, count = 0.0, 0
    for ids in evaluation_batches(open_tokens(prepared), tokens=2048, sequences=8, context=32):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[:, :-1])).logits
        targets = torch.from_numpy(ids[:, 1:]).flatten()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
        count += targets.numel()
    result = run.folder.result() or {}
    assert result["loss_nats"] == pytest.approx(total / count, rel=1e-5)
    assert run.config.model.tied_head and run.config.model.kv_heads == 2 and run.config.model.context == 32
    write_hf(tmp_path / "back", load_weights(run.folder)[0], None)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    for (name, one), (_, other) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_stopped_run_goes_on_without_the_folder_to_the_bit(
    home: Path, tmp_path: Path, precision: str
) -> None:
    shutil.copytree(home / "theirs", tmp_path / "theirs")
    start, how = {"start_from": str(tmp_path / "theirs")}, f'training.precision="{precision}"'
    whole = trained(home, tmp_path / "whole", start, how)
    broken = prepared_run(home, tmp_path / "broken", start, how)
    shutil.rmtree(tmp_path / "theirs")
    assert go_on(broken, stop=True) == "stopped" and 0 < broken.reached < STEPS
    assert go_on(broken) == "done"
    assert broken.folder.result() == whole.folder.result()
    curves = [
        [loss for e in run.folder.events() if e["event"] == "train" for loss in e["each_loss_nats"]]
        for run in (whole, broken)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == STEPS
    assert curves[0][-1] < curves[0][0] - 0.1  # it learns
    assert [spare.path.name for spare in spares(whole.folder)] == [INITIAL_WEIGHTS]


def test_what_decides_the_curve_is_in_the_id_and_no_fit_takes_it(home: Path, tmp_path: Path) -> None:
    ids = {prepared_run(home, tmp_path, from_theirs(home)).folder.run}
    other = read_hf(home / "theirs")
    with torch.no_grad():
        other.norm.weight[3] += 1e-6
    write_hf(tmp_path / "other", other, open_tokens(next((tmp_path / "data").iterdir())).tokenizer)
    run = trained(home, tmp_path, {"start_from": str(tmp_path / "other")})
    assert run.folder.run not in ids
    rows = rows_of_records([read_record(run.folder)], source="here")
    assert not rows.rows and "started from trained weights" in rows.exclusions[0].reason


def test_identity_is_of_the_weights_not_of_the_file(home: Path, tmp_path: Path) -> None:
    ours = read_hf(home / "theirs")
    write_hf(tmp_path / "again", ours, None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20kB")
    assert identity(read_hf(tmp_path / "parts")) == identity(ours)
    assert identity(Llama(ours.config)) != identity(ours)


def test_weights_that_changed_are_refused(home: Path, tmp_path: Path) -> None:
    run = prepared_run(home, tmp_path, from_theirs(home))
    file = run.folder.path / INITIAL_WEIGHTS
    data = file.read_bytes()
    for harmed in (data[:-9], data[:-1] + bytes([data[-1] ^ 1]), b""):
        file.write_bytes(harmed)
        with pytest.raises(StoreError, match="cannot be used"):
            go_on(run)
    file.unlink()
    assert go_on(prepared_run(home, tmp_path, from_theirs(home))) == "done"


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_a_model_of_others_is_trained_on_in_its_own_tokens(kind: str, home: Path, tmp_path: Path) -> None:
    hub = Path(write_hub_folder(tmp_path / "hub", home / "text", kind))
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    run = trained(home, tmp_path / "runs", {"start_from": str(hub)}, "data.vocabulary=416")
    [prepared] = (tmp_path / "runs" / "data").iterdir()
    files = open_tokens(prepared)
    text = "def naïve(x):\n\treturn  x + 1  # 日本"
    [ids] = files.tokenizer.encode([text])
    assert ids.tolist() == [*auto(text)["input_ids"], auto.eos_token_id]
    put_before = len(" ") if kind == "sentencepiece" else 0
    assert files.tokenizer.token_bytes[ids].sum() == len(text.encode()) + put_before
    spelt = f"{auto.bos_token} {auto.eos_token}"
    [ids] = files.tokenizer.encode([spelt])  # text is text, whatever it spells
    assert ids.tolist() == [*auto(spelt, split_special_tokens=True)["input_ids"], auto.eos_token_id]
    stated = files.manifest["sources"][0]["train"]
    [ids] = files.sources[0].train.gather(np.zeros(1, dtype=np.int64), stated["tokens"])
    assert files.tokenizer.token_bytes[ids].sum() == stated["bytes"] + stated["documents"] * put_before
    write_hf(tmp_path / "back", load_weights(run.folder)[0], files.tokenizer)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (hub / name).read_bytes()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert model.config.eos_token_id == auto.eos_token_id


def test_one_text_is_kept_in_the_tokens_of_each_model(home: Path, tmp_path: Path) -> None:
    ways = [
        {"start_from": write_hub_folder(tmp_path / k, home / "text", k)}
        for k in ("byte-level", "sentencepiece")
    ]
    runs = [prepared_run(home, tmp_path / "runs", way, "data.vocabulary=416") for way in (*ways, *ways)]
    assert runs[0] == runs[2] and runs[1] == runs[3] and runs[0].config.corpus != runs[1].config.corpus
    assert len(list((tmp_path / "runs" / "data").iterdir())) == 2


def test_a_tokenizer_of_ours_is_read_as_ours_and_cuts_any_text(home: Path, tmp_path: Path) -> None:
    [prepared] = (home / "base" / "data").iterdir()
    write_hf(tmp_path / "bytes", read_hf(home / "ours"), byte_tokenizer())
    assert read_tokenizer(tmp_path / "bytes", 257) == byte_tokenizer()
    assert read_tokenizer(home / "ours", 300) == open_tokens(prepared).tokenizer
    assert read_tokenizer(home / "theirs", 300) == open_tokens(prepared).tokenizer
    (tmp_path / "other.txt").write_text("".join(f"line {n} after another\n" for n in range(20_000)))
    run = prepared_run(home, tmp_path, from_theirs(home), f"data.source={tmp_path / 'other.txt'}")
    files = open_tokens(data_folder(tmp_path, run.config.data, run.config.corpus))
    assert files.tokenizer == open_tokens(prepared).tokenizer


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "tokenizer.json",
            {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
            "is no BPE",
        ),
        ("tokenizer.json", {"model": 3}, r"tokenizer\.json cannot be read: "),
        ("tokenizer_config.json", {"eos_token": "<gone>"}, "has no token that tokenizer_config.json or"),
        ("tokenizer_config.json", {"eos_token": {"content": "<|endofdoc|>"}}, None),
        ("tokenizer_config.json", {"eos_token": None}, None),
    ],
)
def test_a_tokenizer_that_cannot_cut_texts_is_refused(
    name: str, changes: dict[str, Any], message: str | None, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "theirs", tmp_path / "theirs")
    stated = json.loads((tmp_path / "theirs" / name).read_text())
    (tmp_path / "theirs" / name).write_text(json.dumps({**stated, **changes}))
    if message is None:  # the id that the model's own config calls so, where the tokenizer calls none
        end = json.loads((home / "theirs" / "config.json").read_text())["eos_token_id"]
        expected = end if changes["eos_token"] is None else 299
        assert read_tokenizer(tmp_path / "theirs", 300).end_of_document == expected
    else:
        with pytest.raises(InputError, match=message):
            read_tokenizer(tmp_path / "theirs", 300)


def test_a_tokenizer_may_leave_its_type_out_and_add_words(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "theirs", tmp_path / "theirs")
    place = tmp_path / "theirs" / "tokenizer.json"
    content = json.loads(place.read_text())
    del content["model"]["type"]  # as in GPT-2's file
    [end] = content["added_tokens"]
    end["special"] = False  # it ends texts all the same, and is no byte of any
    content["added_tokens"].append({**end, "id": 300, "content": "日本"})  # no letter a byte
    place.write_text(json.dumps(content))
    found = read_tokenizer(tmp_path / "theirs", 320)
    [ids] = found.encode(["a日本"])
    assert ids[-2:].tolist() == [300, 299]
    assert found.token_bytes[ids].sum() == len("a日本".encode())


def write_hub_folder(folder: Path, text: Path, kind: str) -> str:
    """A model like those of the hub: with LLaMA 3's vocabulary of bytes or LLaMA 2's of pieces."""
    special = {"byte-level": ["<|begin|>", "<|end|>"], "sentencepiece": ["<s>", "</s>", "<unk>"]}[kind]
    if kind == "byte-level":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        first = pre_tokenizers.ByteLevel.alphabet()
    else:
        made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        first = []
    bytes_ = [f"<0x{value:02X}>" for value in range(256)] if kind == "sentencepiece" else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*special, *bytes_], initial_alphabet=first, show_progress=False
    )
    lines = [line for file in text.iterdir() for line in file.read_text().splitlines()]
    made.train_from_iterator(lines, trainer)
    content = json.loads(made.to_str())  # pieces of bytes are no special tokens
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
    )
    names = {"bos_token": special[0], "eos_token": special[1]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=416, max_position_embeddings=64, eos_token_id=1, **shape)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def test_what_cannot_be_trained_on_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="so does start_from"):
        prepared_run(home, tmp_path, from_theirs(home) | {"model": "1M"})
    with pytest.raises(InputError, match="so does start_from"):
        prepared_run(home, tmp_path, from_theirs(home), "shape.qk_norm=true")
    with pytest.raises(InputError, match="has ids beyond a vocabulary of 290"):
        prepared_run(home, tmp_path, from_theirs(home), "data.vocabulary=290")
    with pytest.raises(InputError, match="not the tokenizer of this text"):
        prepared_run(home, tmp_path, from_theirs(home), "data.vocabulary=290", "data.tokenizer=bpe")
    with pytest.raises(InputError, match="is of weights that are drawn"):
        read_single({"start_from": str(home / "theirs")}, ["training.initial_gain=0.5"], source="x")
    with pytest.raises(InputError, match="no start_from names a model to take it from"):
        prepared_run(home, tmp_path, {"model": "1x16"}, "data.tokenizer=start")
    with pytest.raises(InputError, match="fewer than data"):
        prepared_run(home, tmp_path, from_theirs(home), "data.vocabulary=310")
    shutil.copytree(home / "theirs", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        prepared_run(home, tmp_path, {"start_from": str(tmp_path / "bare")})
    assert not list(tmp_path.glob("*/spec.json"))


def test_the_command_trains_on_what_export_wrote(home: Path) -> None:
    (home / "one.toml").write_text(RECIPE.format(steps=20).replace('model = "2x16"', "seed = 5"))
    more = train(home, "--store", "base", "--start-from", "ours")
    assert more["parameters"] == asdict(read_hf(home / "ours").config.parameters)
    (found,) = (run for run in run_folders(home / "base") if run.config.role == "continued")
    assert found.run == more["run"] and found.config.seed == 5
    assert found.config.initial_weights == identity(read_hf(home / "ours"))
