from __future__ import annotations

import gc
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from llama_scale import __version__
from llama_scale.cli import COMMANDS, main
from llama_scale.cli.options import Command, Group
from llama_scale.cli.settings import commands

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "rich", "cattrs", "tokenizers", "tiktoken", "pandas")
OURS = (
    "llama_scale.config",
    "llama_scale.runs",
    "llama_scale.sweeps",
)  # half of what help may take


def llama_scale(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real program in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "llama_scale", *words],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


EVERY = dict(commands(click.Context(main)))


def answering(path: tuple[str, ...]) -> click.Command:
    """The command that answers these words: of a command of commands, the one that it is alone."""
    command = EVERY[path]
    return EVERY[*path, command.alone or ""] if isinstance(command, Group) else command


@pytest.mark.parametrize("path", [(), *EVERY], ids=" ".join)
def test_help_is_light_and_fits(path: tuple[str, ...]) -> None:
    """A new interpreter prints the help and then names the heavy modules that it loaded."""
    code = (
        "import sys\nfrom llama_scale.cli import main\n"
        "try:\n    main(sys.argv[1:], prog_name='llama-scale')\n"
        "except SystemExit as end:\n    code = end.code\n"
        f"print(code, sorted({{*{HEAVY!r}, *{OURS!r}}} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *path, "--help"], capture_output=True, text=True, check=True
    )
    assert shown.stderr.strip() == "0 []"
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "\x1b" not in shown.stdout


def own_words(example: str) -> str:
    """What follows the program's name, which stands first or behind torchrun and its own options."""
    _, found, words = example.replace(" -m llama_scale ", " llama-scale ").rpartition("llama-scale ")
    assert found and example.startswith(("llama-scale ", "torchrun "))
    return words


@pytest.mark.parametrize("path", list(EVERY), ids=" ".join)
def test_help_opens_with_a_question_and_has_examples(path: tuple[str, ...]) -> None:
    command = EVERY[path]
    assert (command.help or "").split("\n\n")[0].rstrip().endswith("?")
    assert isinstance(command, Command | Group)
    assert 2 <= len(command.examples) <= 4
    assert all(own_words(example).startswith(" ".join(path)) for example in command.examples)


@pytest.mark.parametrize("path", list(EVERY), ids=" ".join)
def test_examples_name_options_that_exist(path: tuple[str, ...]) -> None:
    parameters = answering(path).params
    known = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    for example in getattr(EVERY[path], "examples", ()):
        line = own_words(example).split("#")[0]
        words = [word.partition("=")[0] for word in line.split() if word.startswith("-")]
        assert set(words) <= known | {"--help"}


@pytest.mark.parametrize("path", list(EVERY), ids=" ".join)
def test_every_command_speaks_json(path: tuple[str, ...]) -> None:
    assert "--json" in EVERY[path].get_help(click.Context(EVERY[path]))
    assert any("--json" in parameter.opts for parameter in answering(path).params)


@pytest.mark.parametrize(("group", "alone"), [("runs", "ls"), ("data", "show"), ("plot", "kinds")])
def test_a_command_of_commands_answers_alone(group: str, alone: str, tmp_path: Path) -> None:
    first, second = (llama_scale(*words, "--json", cwd=tmp_path) for words in ([group], [group, alone]))
    assert (first.stdout, first.stderr, first.returncode) == (second.stdout, second.stderr, second.returncode)
    assert json.loads(first.stdout)["schema"] == 1
    assert llama_scale(group, "-h").stdout.startswith(f"Usage: llama-scale {group} [OPTIONS] COMMAND")


def test_top_help_is_grouped_by_workflow() -> None:
    lines = llama_scale("--help").stdout.splitlines()
    sections = [line for line in lines if line in ("Measure:", "Fit:", "Plan:", "Inspect:")]
    assert sections == ["Measure:", "Fit:", "Plan:", "Inspect:"]
    for name, entry in COMMANDS.items():
        assert any(line.startswith(f"  {name} ") for line in lines)
        assert len(entry.summary) <= 80 - 12


def test_version() -> None:
    assert llama_scale("--version").stdout == f"llama-scale {__version__}\n"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["docter"], "there is no command 'docter'", "did you mean `llama-scale doctor`?"),
        (["banana"], "there is no command 'banana'", "see `llama-scale --help`"),
        (["doctor", "--jsno"], "there is no option --jsno", "did you mean --json?"),
        (["doctor", "--banana"], "there is no option --banana", "see `llama-scale doctor --help`"),
        (["compare", "gpt-3-175b", "--budget", "1"], "option --budget", "see `llama-scale compare --help`"),
        (["fit", ""], "error: SOURCE: the path is empty", "name a file or folder"),
        (["doctor", "extra"], "got unexpected extra argument", "see `llama-scale doctor --help`"),
        (["doctor", "--store"], "option '--store' requires an argument", "see `llama-scale doctor --help`"),
        (["runs", "ls", "--store"], "requires an argument", "see `llama-scale runs ls --help`"),
        (["plan", "--serve-tokens", "abc"], "--serve-tokens: 'abc' is not a count", "write 7B, 1.4T"),
        (["plan", "--serve-tokens", "$2M"], "--serve-tokens: expected a count", "write 7B, 1.4T"),
        (
            ["plan", "--serve-tokens", "1e12", "--budget", "30d"],
            "expected a budget, but '30d' is a duration",
            "$2M",
        ),
    ],
)
def test_misuse_is_two_lines_and_code_2(words: list[str], error: str, hint: str) -> None:
    done = llama_scale(*words)
    first, second = done.stderr.splitlines()
    assert done.returncode == 2
    assert done.stdout == ""
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


@pytest.mark.parametrize("path", list(EVERY), ids=" ".join)
def test_an_empty_path_is_refused_and_no_folder(path: tuple[str, ...]) -> None:
    for parameter in EVERY[path].params:
        if isinstance(parameter.type, click.Path):
            words = [parameter.opts[-1], ""] if isinstance(parameter, click.Option) else [""]
            shown = CliRunner().invoke(main, [*path, *words])
            assert shown.exit_code == 2
            assert "the path is empty" in shown.stderr.splitlines()[0]


def test_errors_are_json_too() -> None:
    done = llama_scale("plan", "--serve-tokens", "abc", "--json")
    value = json.loads(done.stdout)
    assert value["schema"] == 1
    assert value["exit_code"] == done.returncode == 2
    assert "'abc'" in value["error"]
    assert "7B" in value["hint"]
    assert done.stderr.startswith("error: ")


def test_no_words_at_all_show_the_help() -> None:
    done = llama_scale()
    assert done.returncode == 2
    assert "Measure:" in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("runs --store here show 0123", "runs show --store here 0123"),
        ("data --tokens-only verify --json", "data verify --tokens-only --json"),
        ("plot --cost-in usd cost", "plot cost --cost-in usd"),
    ],
)
def test_an_option_before_its_command_is_told_where_it_belongs(words: str, meant: str) -> None:
    told = CliRunner().invoke(main, words.split(), prog_name="llama-scale")
    assert told.exit_code == 2
    assert told.stderr.endswith(f"hint: write `llama-scale {meant}`\n")
    folder = CliRunner().invoke(main, ["runs", "--store", "show"])  # that is a folder's name
    assert "no run store at 'show'" in folder.stderr


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    command = f"{sys.executable} -m llama_scale doctor --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words", ["--version", "--help", "plan -h", "runs --help", "runs ls --help", "plot", "doctor"]
)
def test_nor_is_one_that_has_gone_before_a_word_is_said(words: str) -> None:
    unread, said = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, "-m", "llama_scale", *words.split()],
        stdout=said,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(said)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nor_is_a_terminal_that_was_closed(stream: str) -> None:
    """Where a view is plain, as with NO_COLOR, the next line of it had ended a run before it could save."""
    program = "from llama_scale.cli.output import Output; Output().talk('on'); Output().result({}, 'well')"
    reader, terminal = pty.openpty()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program],
        text=True,
        check=False,
        stdout=terminal if stream == "stdout" else subprocess.PIPE,
        stderr=terminal if stream == "stderr" else subprocess.PIPE,
    )
    os.close(terminal)
    unsaid = {"stdout": (None, "on\n"), "stderr": ("well\n", None)}
    assert (done.returncode, (done.stdout, done.stderr)) == (0, unsaid[stream])


def test_nor_is_one_that_leaves_in_the_middle_of_an_answer() -> None:
    plan = f"{sys.executable} -m llama_scale plan --serve-tokens 1e12 --explain"
    command = f"{plan} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Train ")
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_answer_that_finds_no_room_is_an_error(form: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llama_scale", "plan", "--serve-tokens", "0", *form],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert "no space left" in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_answer_that_nobody_wants_is_no_failure(form: list[str]) -> None:
    command = shlex.join([sys.executable, "-m", "llama_scale", "plan", "--serve-tokens", "0", *form])
    done = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "code"), [(["plan", "--serve-tokens", "0", "--json"], 0), (["plan", "--jsn", "--json"], 2)]
)
def test_an_answer_does_not_wait_for_who_reads_the_talk_beside_it(words: list[str], code: int) -> None:
    unread, talk = os.pipe()
    os.close(unread)  # as `2>&1 | head` has it, once head has seen enough
    done = subprocess.run(
        [sys.executable, "-m", "llama_scale", *words],
        stdout=subprocess.PIPE,
        stderr=talk,
        text=True,
        check=False,
        env={**os.environ, "LLAMA_SCALE_PLAN_BUDGT": "1e22"},  # which is warned of
    )
    os.close(talk)
    assert done.returncode == code
    assert json.loads(done.stdout).get("exit_code", 0) == code


def test_an_interrupt_is_told_as_any_error_is() -> None:
    code = (
        "import os, signal, sys\nfrom llama_scale.cli import main\n"
        "def stop(event, about):\n"
        "    if event == 'import' and about[0] == 'numpy':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it\n"
        "sys.addaudithook(stop)\nmain(['plan', '--serve-tokens', '0', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 130
    assert done.stderr.splitlines()[-2:] == ["error: interrupted", "hint: give the same command again"]


def test_a_terminal_without_unicode_gets_no_traceback() -> None:
    done = llama_scale("doctor", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_completion_in_a_real_shell(tmp_path: Path) -> None:
    """Bash itself asks for completions, through the script that click writes for it."""
    program = Path(sys.executable).with_name("llama-scale")
    if not program.exists():
        pytest.skip("llama-scale is not installed beside this Python")
    for run in ("0123", "0456"):
        (tmp_path / "mine" / run).mkdir(parents=True)
        (tmp_path / "mine" / run / "spec.json").write_text("{}")
    script = """
        eval "$(_LLAMA_SCALE_COMPLETE=bash_source llama-scale)"
        complete_line() {
            COMP_WORDS=($1); [[ $1 == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _llama_scale_completion llama-scale; echo "${COMPREPLY[@]}"
        }
        complete_line "llama-scale do"
        complete_line "llama-scale doctor --js"
        complete_line "llama-scale worker --store mine 0"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["doctor", "--json", "0123 0456"]


@pytest.mark.parametrize("words", ["sweep", "data prepare"])
def test_a_recipe_is_completed_by_name_or_as_a_file(words: str) -> None:
    for begun, found in (("one-g", "plain,one-gpu-night"), ("own", "file,own")):
        line = f"llama-scale {words} {begun}"
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        env = {**asked, "_LLAMA_SCALE_COMPLETE": "bash_complete"}
        assert CliRunner().invoke(main, [], prog_name="llama-scale", env=env).stdout == f"{found}\n"


def test_python_has_the_same_verbs() -> None:
    import llama_scale as package

    assert callable(package.sweep)
    assert callable(package.fit)
    assert callable(package.plan)
    with pytest.raises(AttributeError):
        _ = package.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, llama_scale; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_who_calls_a_command_in_a_process_keeps_its_garbage_collected() -> None:
    before = gc.get_freeze_count()
    assert CliRunner().invoke(main, ["plan", "--serve-tokens", "0", "--json"]).exit_code == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize(("words", "given", "threads"), [
    (["plan", "--serve-tokens", "0"], {}, "1"),
    (["plan", "--serve-tokens", "0"], {"OPENBLAS_NUM_THREADS": "2"}, "2"),
    (["runs", "ls"], {}, "1"),
    (["train", "no-such.toml"], {}, "None"),
])  # fmt: skip
def test_what_is_soon_over_loads_numpy_without_threads(
    words: list[str], given: dict[str, str], threads: str, tmp_path: Path
) -> None:
    code = (
        "import os, sys\nfrom llama_scale.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(os.environ.get('OPENBLAS_NUM_THREADS'), file=sys.stderr)"
    )
    others = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    ended = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"],
        cwd=tmp_path,
        env=others | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr.splitlines()[-1] == threads
