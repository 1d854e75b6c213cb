from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_scale.architecture import ModelConfig
from llama_scale.canonical import added, canonical_hash, canonical_json, differences, plain
from llama_scale.config import apply_overrides, load_toml, nearest, read_toml, structure
from llama_scale.errors import InputError
from llama_scale.frozen import frozen


@frozen
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float


@frozen
class Box:
    kind: Literal["box"] = "box"
    sides: tuple[float, ...]


@frozen
class Drawing:
    figure: Circle | Box


@frozen
class Optimiser:
    learning_rate: float
    kind: Literal["adamw", "muon"] = "adamw"
    warmup_steps: int = 10

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise InputError("optimiser.learning_rate must be positive", hint="set it to 3e-3")


@frozen
class Recipe:
    name: str
    optimiser: Optimiser
    tokens: int = 1000
    budgets_flops: tuple[float, ...] = ()
    memory_bytes: float | None = None
    resume: bool = False
    text: Path | None = None
    models: tuple[ModelConfig, ...] = ()


GOOD = """
name = "first"
tokens = 1e9
budgets_flops = [1e15, "2e15 FLOPs", 4_000]
memory_bytes = "80GiB"
text = "a/b.txt"

[optimiser]
learning_rate = 3e-3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    return path


def test_a_recipe_becomes_a_value(recipe: Path) -> None:
    value = load_toml(recipe, Recipe)
    assert value == Recipe(
        name="first",
        optimiser=Optimiser(learning_rate=3e-3),
        tokens=10**9,
        budgets_flops=(1e15, 2e15, 4000.0),
        memory_bytes=80 * 2.0**30,
        text=Path("a/b.txt"),
    )
    assert type(value.tokens) is int
    assert type(value.budgets_flops[2]) is float


def test_overrides_come_before_types(recipe: Path) -> None:
    value = load_toml(recipe, Recipe, overrides=["tokens=7B", "optimiser.kind=muon", "resume=true"])
    assert (value.tokens, value.optimiser.kind, value.resume) == (7 * 10**9, "muon", True)


def test_a_word_of_a_few_may_be_in_capitals(recipe: Path) -> None:
    value = load_toml(recipe, Recipe, overrides=["optimiser.kind=MuON"])
    assert value.optimiser.kind == "muon"
    figure = {"kind": "Box", "sides": [1, 2]}
    assert structure({"figure": figure}, Drawing, source="x").figure == Box(sides=(1.0, 2.0))
    with pytest.raises(InputError, match=r'figure.kind is \["Box"\], not one of'):
        structure({"figure": {"kind": ["Box"]}}, Drawing, source="x")


def test_every_error_at_once_with_key_path_value_and_nearest_key(recipe: Path) -> None:
    recipe.write_text(
        """
        nmae = "x"
        tokens = 1.5
        budgets_flops = ["$3"]
        resume = 1
        text = 3
        [optimiser]
        learning_rate = "fast"
        kind = "adam"
        warmup = 3
        [[models]]
        layers = 2
        """
    )
    with pytest.raises(InputError) as raised:
        load_toml(recipe, Recipe)
    message = raised.value.message
    for part in (
        f"{recipe} has ",
        "nmae is not a known key (did you mean 'name'?)",
        "name is missing",
        "tokens = 1.5: expected a whole number",
        "expected FLOPs, but '$3' is dollars",
        "resume = 1: expected true or false",
        "text = 3: expected a path in quotes",
        "optimiser.learning_rate = \"fast\": 'fast' is not",
        "optimiser.kind = \"adam\": expected one of adamw, muon (did you mean 'adamw'?)",
        "optimiser.warmup is not a known key (did you mean 'warmup_steps'?)",
        "models.0.width is missing",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("tokenz = 1", "tokenz is not a known key", "did you mean 'tokens'?"),
        ("zzz = 1", "zzz is not a known key", "the keys here are name, "),
        ('tokens = "many"', "tokens = \"many\": 'many' is not a count", "write 7B"),
        ("tokens = true", "tokens = true: expected a whole number", "correct that value"),
        ("tokens = inf", "expected a whole number that is finite", "correct that value"),
        ('budgets_flops = "1e15"', 'budgets_flops = "1e15": expected a list', "correct that value"),
        (f"tokens = {'9' * 400}", "expected a whole number that is finite", "correct that value"),
        (f"optimiser.learning_rate = {'9' * 400}", "expected a number that is finite", "correct that value"),
        (f"tokens = {'[' * 90}{']' * 90}", "expected a whole number", "correct that value"),
        ("optimiser.learning_rate = -1", "optimiser.learning_rate must be positive", "set it to 3e-3"),
        ("optimiser = 3", "optimiser = 3: expected a table", "correct that value"),
    ],
)
def test_one_error_is_one_line_and_one_hint(tmp_path: Path, line: str, message: str, hint: str) -> None:
    path = tmp_path / "recipe.toml"
    good = 'name = "x"\n' + ("" if line.startswith("optimiser") else "optimiser.learning_rate = 1e-3\n")
    path.write_text(good + line)
    with pytest.raises(InputError) as raised:
        load_toml(path, Recipe)
    assert raised.value.message.startswith(f"{path}: ")
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


def test_files_that_are_no_toml(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "broken.toml").write_text("a = [1,")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5_000)
    (tmp_path / "long.toml").write_text("a = " + "9" * 5_000)
    cases = {
        "broken.toml": "is not TOML",
        "deep.toml": "is not TOML",
        "long.toml": "is not TOML",
        "latin.toml": "not UTF-8",
        "recipes.toml": "no file",
        ".": "cannot read",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_toml(tmp_path / name)
    with pytest.raises(InputError) as raised:
        read_toml(tmp_path / "recipes.toml")
    assert raised.value.hint == f"did you mean {recipe}?"


def test_a_mark_of_the_byte_order_in_front_is_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(b'\xef\xbb\xbfname = "ours"\n')
    assert read_toml(tmp_path / "marked.toml") == {"name": "ours"}


def test_a_bad_override_is_named_beside_the_file(recipe: Path) -> None:
    with pytest.raises(InputError) as raised:
        load_toml(recipe, Recipe, overrides=["optimiser.knd=muon"])
    assert raised.value.message == f"{recipe} with --set optimiser.knd=muon: optimiser.knd is not a known key"
    assert raised.value.hint == "did you mean 'kind'?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokens", "has no KEY=VALUE"),
        ("=3", "has no KEY=VALUE"),
        ("name.deep.er=3", "not a table"),
        ("models.5.layers=3", "without an item"),
        ("models.x=3", "without an item"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_overrides({"name": "x", "models": [{"layers": 1}]}, [override])


def test_overrides_are_toml_or_text_and_leave_the_original_alone() -> None:
    before = {"a": {"b": 1}, "runs": [{"seed": 0}]}
    overrides = [
        "a.b=1e12",
        "a.c=7B",
        "a.d=[1, 2]",
        "a.e='7B'",
        "runs.0.seed=5",
        "new.x=false",
        "a.f=b=c",
        "g=",
    ]
    after = apply_overrides(before, overrides)
    assert after == {
        "a": {"b": 1e12, "c": "7B", "d": [1, 2], "e": "7B", "f": "b=c"},
        "runs": [{"seed": 5}],
        "new": {"x": False},
        "g": "",
    }
    assert before == {"a": {"b": 1}, "runs": [{"seed": 0}]}
    assert apply_overrides({}, ["a=1\nb = 2"]) == {"a": "1\nb = 2"}


def test_structure_names_its_source() -> None:
    with pytest.raises(InputError, match=r"^spec\.json has 2 problems"):
        structure({}, Recipe, source="spec.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(json_values)
def test_canonical_json_is_json(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers()))
def test_the_hash_ignores_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical_hash(value) == canonical_hash(dict(reversed(value.items())))


def test_the_hash_of_a_value_is_the_same_for_ever() -> None:
    """These identify runs on people's disks: a change here orphans them."""
    value = Recipe(name="größe", optimiser=Optimiser(learning_rate=1e-3), budgets_flops=(1e15, 0.1, 5e-324))
    assert canonical_json(value) == (
        '{"budgets_flops":[1000000000000000.0,0.1,5e-324],"memory_bytes":null,"models":[],"name":"gr\\u00f6\\u00dfe",'
        '"optimiser":{"kind":"adamw","learning_rate":0.001,"warmup_steps":10},"resume":false,"text":null,"tokens":1000}'
    )
    assert canonical_hash(value) == "8ccab1adfdee498c"


def test_the_hash_does_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "from llama_scale.canonical import canonical_hash; print(canonical_hash({'b': {2.5, 1.0}, 'a': 'x'}))"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(hashes) == 1


def test_json_has_no_infinities() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"loss": float("inf")})


def test_arrays_and_paths_become_plain() -> None:
    np = pytest.importorskip("numpy")
    assert plain({"a": np.arange(2), "b": np.float64(0.5), "c": Path("x"), "d": (1, {2})}) == {
        "a": [0, 1],
        "b": 0.5,
        "c": "x",
        "d": [1, [2]],
    }


def test_nearest_names() -> None:
    assert nearest("H10", ["H100", "A100"]) == ["H100"]
    assert nearest("h100-sxm", ["H100-SXM", "A100"]) == ["H100-SXM"]
    assert nearest("banana", ["H100"]) == []


def test_a_type_that_cannot_be_read_is_our_own_bug() -> None:
    @frozen
    class Odd:
        value: complex

    with pytest.raises(Exception, match="complex") as raised:
        structure({"value": 1}, Odd, source="x")
    assert not isinstance(raised.value, InputError)


def test_a_table_is_of_the_kind_that_it_names_or_else_the_first_that_its_keys_fit() -> None:
    assert structure({"figure": {"radius": 2}}, Drawing, source="x").figure == Circle(radius=2.0)
    assert structure({"figure": {"sides": [1]}}, Drawing, source="x").figure == Box(sides=(1.0,))
    boxed = structure({"figure": {"kind": "box", "sides": ["1k", 2]}}, Drawing, source="x")
    assert boxed.figure == Box(sides=(1000.0, 2.0))


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"kind": "boxx", "sides": [1]}, 'figure.kind is "boxx", not one of circle, box'),
        ({"kind": "box", "radius": 1}, "2 problems"),
        ({"radios": 1, "radius": 1}, "figure.radios is not a known key"),
        ([1], "expected a table"),
    ],
)
def test_what_a_kind_does_not_take_is_refused(figure: object, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        structure({"figure": figure}, Drawing, source="x")
    assert message in refusal.value.message


@frozen
class First:
    beta: float = 0.9


@frozen
class Later:
    beta: float = 0.9
    kind: str = added("adamw")
    inner: First = First()


def test_a_field_that_came_later_counts_only_where_it_is_set() -> None:
    assert canonical_json(Later()) == '{"beta":0.9,"inner":{"beta":0.9}}'
    assert canonical_json({"a": [Later(kind="muon")]}) == (
        '{"a":[{"beta":0.9,"inner":{"beta":0.9},"kind":"muon"}]}'
    )
    assert canonical_hash(Later(beta=0.5, inner=First())) != canonical_hash(Later())
    assert structure({"beta": 0.9}, Later, source="x") == Later()


def test_differences_name_their_place() -> None:
    before = {"optimizer": {"beta2": 0.99, "kind": "adamw"}, "seed": 1}
    after = {"optimizer": {"beta2": 0.95}, "seed": 1, "branch": None}
    assert list(differences(before, after)) == [
        ("optimizer.beta2", 0.99, 0.95),
        ("optimizer.kind", "adamw", None),
    ]
    texts = [{"name": "one"}, {"name": "two"}]
    assert list(differences({"data": texts}, {"data": texts[:1]})) == [("data.1", {"name": "two"}, None)]
    assert list(differences({"data": texts}, {})) == [("data", texts, None)]
    assert list(differences({"data": {"one": 1}}, {"data": 2})) == [("data", {"one": 1}, 2)]
    assert not list(differences(before, before))
