from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from llama_scale.cli import Program, main
from llama_scale.cli.options import (
    BUDGET,
    COUNT,
    LAWS,
    USD_PER_HOUR,
    Group,
    completing,
    json_option,
    one_of,
    quiet_option,
    set_option,
    store_option,
)
from llama_scale.cli.options import command as make_command
from llama_scale.cli.output import current_output
from llama_scale.cli.settings import commands, variables
from llama_scale.quantities import Quantity


@make_command(examples=["llama-scale show", "llama-scale show --json"])
@click.option("--budget", type=BUDGET, default="1e21")
@click.option("--serve-tokens", type=COUNT, default="1e12")
@click.option("--form", type=one_of(["chinchilla", "skaling"]), default="chinchilla")
@click.option("--format", "look", default="text")
@click.option("--price", type=USD_PER_HOUR, help="Of an hour.  [default: a dated quote]")
@set_option
@store_option
@quiet_option
@json_option
def show(budget: Quantity, serve_tokens: float, store: Path, overrides: tuple[str, ...], **_: object) -> None:
    """What was said?"""
    value = {"budget": budget.value, "serve_tokens": serve_tokens, "store": str(store), "set": overrides}
    current_output().result(value, str(value))


class Sample(Program):
    """The program itself, with a command of the test's own in it, alone and inside a group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["show", "group"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return {"show": show, "group": Group("group", alone="show", commands={"show": show})}.get(cmd_name)


sample = Sample(name="llama-scale", context_settings=main.context_settings)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write_user(text: str) -> None:
    path = Path("config/llama-scale/config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_project(text: str) -> None:
    Path("llama-scale.toml").write_text(text)


def run(*words: str) -> Result:
    return CliRunner().invoke(sample, list(words), prog_name="llama-scale")


def settings(*words: str) -> dict[str, dict[str, object]]:
    return json.loads(run(*words, "--json", "--show-settings").stdout)["settings"]


def test_each_source_beats_the_next_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings("show")["serve-tokens"] == {"value": "1T", "from": "default"}
    write_user('[show]\nserve-tokens = "2T"\nbudget = "$1M"')
    user = "config/llama-scale/config.toml"
    assert settings("show")["serve-tokens"] == {"value": "2T", "from": str(Path.cwd() / user)}
    write_project("[show]\nserve_tokens = 3e12")
    assert settings("show")["serve-tokens"] == {"value": "3T", "from": "llama-scale.toml"}
    assert settings("show")["budget"]["value"] == "$1M"
    monkeypatch.setenv("LLAMA_SCALE_SHOW_SERVE_TOKENS", "4T")
    assert settings("show")["serve-tokens"] == {"value": "4T", "from": "LLAMA_SCALE_SHOW_SERVE_TOKENS"}
    assert settings("show", "--serve-tokens", "5T")["serve-tokens"] == {
        "value": "5T",
        "from": "the command line",
    }
    assert json.loads(run("show", "--serve-tokens", "5T", "--json").stdout)["serve_tokens"] == 5e12


def test_shared_settings_stand_on_top_and_have_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    write_project('store = "/scratch/runs"\njson = true')
    assert json.loads(run("show").stdout)["store"] == "/scratch/runs"
    write_project('store = "/scratch/runs"\n[show]\nstore = "own"')
    assert settings("show")["store"]["value"] == "own"
    monkeypatch.setenv("LLAMA_SCALE_STORE", "elsewhere")
    assert settings("show")["store"] == {"value": "elsewhere", "from": "LLAMA_SCALE_STORE"}


def test_variables_are_named_after_options_whatever_python_calls_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAMA_SCALE_SHOW_FORMAT", "csv")
    monkeypatch.setenv("LLAMA_SCALE_SHOW_SET", "a=1 b=2")
    monkeypatch.setenv("LLAMA_SCALE_SHOW_JSON", "1")
    said = json.loads(run("show", "--show-settings").stdout)["settings"]
    assert said["format"] == {"value": "csv", "from": "LLAMA_SCALE_SHOW_FORMAT"}
    assert said["set"] == {"value": ["a=1", "b=2"], "from": "LLAMA_SCALE_SHOW_SET"}
    assert said["json"] == {"value": True, "from": "LLAMA_SCALE_SHOW_JSON"}


def test_a_variable_without_a_command_is_for_all_that_have_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAMA_SCALE_SERVE_TOKENS", "4T")
    for words in (["show"], ["group", "show"]):
        assert settings(*words)["serve-tokens"] == {"value": "4T", "from": "LLAMA_SCALE_SERVE_TOKENS"}
    monkeypatch.setenv("LLAMA_SCALE_SHOW_SERVE_TOKENS", "5T")
    assert settings("show")["serve-tokens"]["value"] == "5T"
    assert settings("group", "show")["serve-tokens"]["value"] == "4T"


def test_a_variable_without_a_command_means_the_same_to_all_that_read_it() -> None:
    """Or LLAMA_SCALE_WEIGHTS, said to `fit`, would delete weights in `runs prune`."""
    kinds: dict[str, set[object]] = {}
    for path, command in commands(click.Context(main, info_name="llama-scale")):
        for option in command.params:
            shared = isinstance(option, click.Option) and variables(path, option)[1:]
            if shared and option.name != "serve_tokens":  # a number to `compare`, that or a range to `plan`
                words = getattr(option.type, "choices", ())
                kinds.setdefault(shared[0], set()).add((option.type.name, *words, option.multiple))
    assert {name for name, several in kinds.items() if len(several) > 1} == set()
    assert {"LLAMA_SCALE_BUDGET", "LLAMA_SCALE_STORE", "LLAMA_SCALE_FORMAT"} <= kinds.keys()
    assert not {"LLAMA_SCALE_WEIGHTS", "LLAMA_SCALE_OUTPUT"} & kinds.keys()


def test_what_a_plan_may_cost_is_nothing_that_a_fit_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("BUDGET", "$5M"), ("FLOPS", "exact"), ("OUTPUT", "plan.html"), ("CONTEXT", "8K")):
        monkeypatch.setenv(f"LLAMA_SCALE_{name}", said)
    monkeypatch.setenv("LLAMA_SCALE_FIT_WEIGHTS", "none")
    for command in ("fit", "train", "plan"):
        told = CliRunner().invoke(main, [command, "--show-settings", "--json"])
        said = {key: one["from"] for key, one in json.loads(told.stdout)["settings"].items()}
        read = {key for key, source in said.items() if source.startswith("LLAMA_SCALE_")}
        assert read == {"fit": {"weights"}, "train": set(), "plan": {"budget", "flops", "context"}}[command]


def test_a_variable_that_the_command_does_not_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SCALE_SHOW_BUDGT", "1e22")
    told = "warning: nothing reads the variable LLAMA_SCALE_SHOW_BUDGT; did you mean LLAMA_SCALE_SHOW_BUDGET?"
    assert told in run("show").stderr


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("json = true", {}),
        ("[show]\njson = true", {}),
        ("", {"LLAMA_SCALE_JSON": "1"}),
        ("", {"LLAMA_SCALE_SHOW_JSON": "true"}),
    ],
)
def test_errors_are_json_wherever_it_was_asked_for(
    text: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert json.loads(run("show", "--budget", "30d").stdout)["exit_code"] == 2


@pytest.mark.parametrize("words", [["runs"], ["runs", "ls"], ["runs", "--store", "gone"]])
def test_a_group_alone_tells_errors_as_the_command_that_it_is(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SCALE_RUNS_JSON", "1")  # of no command: of the group, which has no options
    assert CliRunner().invoke(main, words).stdout == ""
    monkeypatch.setenv("LLAMA_SCALE_RUNS_LS_JSON", "1")
    assert json.loads(CliRunner().invoke(main, words).stdout)["exit_code"] == 2


def test_one_value_in_a_file_is_one_of_several() -> None:
    for text, said in (('"a=1"', ["a=1"]), ('["a=1", "b=2"]', ["a=1", "b=2"])):
        write_project(f"[show]\nset = {text}")
        assert settings("show")["set"] == {"value": said, "from": "llama-scale.toml"}


@pytest.mark.parametrize("text", ["plan = 3", "[plan", "[plan]\nbugdet = 1e22", ""])
def test_nothing_is_said_while_a_line_is_completed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(text)
    monkeypatch.setenv("LLAMA_SCALE_PLAN_BUDGT", "1e22")
    asked = {
        "_LLAMA_SCALE_COMPLETE": "bash_complete",
        "COMP_WORDS": "llama-scale plan --bud",
        "COMP_CWORD": "2",
    }
    told = CliRunner().invoke(main, [], prog_name="llama-scale", env=asked)
    assert (told.stdout, told.stderr) == ("plain,--budget\n", "")


def test_commands_of_commands_have_tables_of_tables() -> None:
    write_project('[group.show]\nbudget = "2e21"')
    assert settings("group", "show")["budget"]["value"] == "2e21 FLOPs"
    assert settings("show")["budget"]["value"] == "1e21 FLOPs"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[show]\nbugdet = 1", "llama-scale.toml: show.bugdet is not a known key", "did you mean 'budget'?"),
        ("[shwo]\nbudget = 1", "llama-scale.toml: shwo is not a known key", "did you mean 'show'?"),
        ("show = 3", "llama-scale.toml: show is not a table", "write [show] above its keys"),
        ("[show", "llama-scale.toml is not TOML", "correct that line"),
        ('[show]\nbudget = "30d"', "--budget (from llama-scale.toml): expected a budget", "write 1e24"),
        ("[show]\nserve-tokens = [1]", "--serve-tokens (from llama-scale.toml)", "write 7B"),
        ('[show]\nform = "skalin"', "'skalin' is not one of", "did you mean 'skaling'?"),
    ],
)
def test_mistakes_in_a_file_name_the_file(text: str, message: str, hint: str) -> None:
    write_project(text)
    result = run("show")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert f"hint: {hint}" in result.stderr


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SCALE_SHOW_BUDGET", "30d")
    assert "error: --budget (from LLAMA_SCALE_SHOW_BUDGET): expected" in run("show").stderr


def test_a_default_that_the_command_works_out_is_shown_as_help_tells_it() -> None:
    assert settings("show")["price"] == {"value": "a dated quote", "from": "default"}
    assert settings("show", "--price", "$2/h")["price"]["value"] == "$2.00/h"


def words_of_every_command() -> list[list[str]]:
    """Each command by name, with a word for each of its arguments that must be given."""
    return [
        [*words, *("there" for p in command.params if isinstance(p, click.Argument) and p.required)]
        for words, command in commands(click.Context(main, info_name="llama-scale"))
        if not isinstance(command, click.Group)
    ]


@pytest.mark.parametrize("words", words_of_every_command(), ids=" ".join)
def test_every_command_shows_its_settings(folder: Path, words: list[str]) -> None:
    (folder / "there").touch()
    for form in ((), ("--json",)):
        result = CliRunner().invoke(main, [*words, "--show-settings", *form], catch_exceptions=False)
        assert result.exit_code == 0, result.output


def test_options_that_may_be_given_several_times_are_shown_as_they_are_written() -> None:
    words = ["fit", "--budget", "1e21", "--budget", "3e21", "--show-settings"]
    found = json.loads(CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).stdout)
    assert found["settings"]["budget"]["value"] == ["1e21 FLOPs", "3e21 FLOPs"]
    assert "1e21 FLOPs, 3e21 FLOPs" in CliRunner().invoke(main, words).stdout


def test_values_complete_or_else_files() -> None:
    def broken() -> list[str]:
        raise OSError

    context, option = click.Context(show), show.params[0]
    assert [item.value for item in completing(LAWS)(context, option, "b")] == ["besiroglu-2024"]
    assert completing(LAWS)(context, option, "x") == []
    assert completing(broken)(context, option, "") == []
    assert [item.type for item in completing(LAWS, or_files=True)(context, option, "x")] == ["file"]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("plan",), "match", "llama-13b"),
        (("plan",), "serve_accelerator", "H100-SXM"),
        (("compare",), "buy", "llama-2-70b"),
        (("train",), "model", "llama-7b"),
        (("train",), "peak", "H100-SXM"),
        (("sweep",), "recipe", "overtraining"),
        (("data", "prepare"), "recipe", "default"),
    ],
)
def test_each_kind_of_name_completes(words: tuple[str, ...], name: str, value: str) -> None:
    context = click.Context(main)
    for word in words:
        assert isinstance(context.command, click.Group)
        command = context.command.get_command(context, word)
        assert command is not None
        context = click.Context(command, parent=context, info_name=word)
    option = next(one for one in context.command.params if one.name == name)
    assert value in [item.value for item in option.shell_complete(context, value[:3])]


def test_overrides_arrive_in_order() -> None:
    value = json.loads(run("show", "--set", "a.b=1", "--set", "c=2", "--json").stdout)
    assert value["set"] == ["a.b=1", "c=2"]


def test_defaults_are_shown_in_human_units() -> None:
    text = " ".join(run("show", "--help").stdout.split())
    assert "[default: 1e12]" in text
    assert "--serve-tokens COUNT" in text
    assert "llama-scale show --json" in text


def test_a_word_of_a_few_may_be_in_capitals() -> None:
    assert settings("show", "--form", "Skaling")["form"]["value"] == "skaling"
