"""What every command has in common: help, arguments, suggestions, completion, and what is not imported for them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unmask import cli
from unmask.arguments import parse_settings
from unmask.errors import UsageError
from unmask.evals.settings import EvalSettings
from unmask.server.settings import ServeSettings
from unmask.settings import GenerateSettings

HEAVY = ("torch", "transformers", "fastapi", "uvicorn", "safetensors", "numpy")
WORDS_OF_PYTHON = (
    r"NoneType|\bnull\b|\blist\b(?!-)|tuple|factory|Optional|\bstr\b|\bint\b|\bNone\b|\(default: \)|==SUPPRESS=="
)
# Runs a command as the console script does, and then says which heavy modules it imported.
PROBE = """
import sys
from unmask.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *(name for name in {heavy} if name in sys.modules))
"""


def serve(*arguments: str) -> ServeSettings:
    return parse_settings(ServeSettings, "unmask serve", arguments)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_in_plain_words_and_imports_nothing_heavy(command: str) -> None:
    arguments = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *command.split(), "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    *text, imported = done.stdout.splitlines()
    assert imported.strip() == "imported:"
    assert max(map(len, text)) <= 80
    assert not re.search(WORDS_OF_PYTHON, done.stdout)
    assert "UNMASK_" in done.stdout or command in ("schedulers", "completion")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_flag_is_in_one_group_and_has_a_text(command: str) -> None:
    settings = cli.settings_of(command)
    grouped = " ".join(settings.GROUPS.values()).split()
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= set(settings.model_fields)
    if settings.GROUPS:
        assert set(settings.model_fields) - set(grouped) <= {settings.POSITIONAL}
    assert all(field.description for field in settings.model_fields.values())
    assert all(example.removeprefix('eval "$(').startswith(f"unmask {command}") for example in settings.EXAMPLES)


@pytest.mark.parametrize(
    "arguments", [["NAME", "--port", "9"], ["--port", "9", "NAME"], ["--otel", "NAME", "--port=9", "--no-otel"]]
)
def test_the_model_may_stand_anywhere(arguments: list[str]) -> None:
    settings = serve(*arguments)
    assert (settings.model, settings.port) == ("NAME", 9)


def test_the_model_may_also_be_a_flag_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve().model == "llada-nano"
    assert serve("--model", "NAME").model == "NAME"
    monkeypatch.setenv("UNMASK_MODEL", "OTHER")
    assert serve().model == "OTHER"
    assert serve("NAME").model == "NAME"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prt", "1"], "unknown flag --prt; did you mean --port?"),
        (["--max-row=1"], None),  # an abbreviation
        (["--zzz"], "unknown flag --zzz; unmask serve --help lists the flags"),
        (["--port"], "--port: expected one argument"),
        (["--port", "x"], "--port must be a whole number, not 'x'"),
        (["--port", "0"], "--port must be at least 1, not '0'"),
        (["--memory-fraction", "1"], "--memory-fraction must be below 1, not '1'"),
        (
            ["--device", "gpu"],
            "--device must be auto, cuda, cpu, mps or xpu or one with a number, as cuda:1, not 'gpu'",
        ),
        (["--cors-origin", "here"], "--cors-origin: 'here' is not an origin; give scheme and host"),
        (["--default-scheduler", "treshold"], "'treshold'; did you mean 'threshold'? The schedulers are: ada-block, "),
        (["a", "b"], "unexpected argument 'b'"),
        (["a", "--model", "b"], "'a' and --model 'b' exclude each other"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments: list[str], message: str | None) -> None:
    if message is None:
        assert serve(*arguments)
        return
    with pytest.raises(UsageError) as error:
        serve(*arguments)
    assert message in str(error.value)


def test_a_wrong_variable_is_named_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_PORT", "many")
    with pytest.raises(UsageError, match="UNMASK_PORT must be a whole number, not 'many'"):
        serve()


def test_lists_are_commas_or_repeated_flags_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(*arguments: str) -> tuple[int | str, ...]:
        return parse_settings(EvalSettings, "unmask eval", arguments).block_length

    assert lengths("--block-length", "8,full", "--block-length", "16") == (8, "full", 16)
    monkeypatch.setenv("UNMASK_BLOCK_LENGTH", "4,full")
    assert lengths() == (4, "full")
    with pytest.raises(UsageError, match="--block-length must be a whole number or full, not 'whole'"):
        lengths("--block-length", "whole")


def test_a_prompt_is_needed_and_may_come_last() -> None:
    found = parse_settings(GenerateSettings, "unmask generate", ["--raw", "--seed", "-3", "two words"])
    assert (found.prompt, found.raw, found.seed) == ("two words", True, -3)
    with pytest.raises(UsageError, match="PROMPT is missing"):
        parse_settings(GenerateSettings, "unmask generate", ["--raw"])


def test_the_shell_completes_commands_flags_and_values(tmp_path: Path) -> None:
    script = tmp_path / "unmask.bash"
    made = subprocess.run([sys.executable, "-m", "unmask", "completion", "bash"], check=True, capture_output=True)
    script.write_bytes(made.stdout)

    def complete(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        line = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        line += f"_shtab_unmask unmask '{words[-1]}' '{words[-2]}'; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout.split()

    assert complete("unmask", "tr") == ["train-policy", "train-model"]
    assert complete("unmask", "serve", "--max-r") == ["--max-rows"]
    assert complete("unmask", "serve", "--device", "c") == ["cuda", "cpu"]
    assert complete("unmask", "generate", "--scheduler", "t") == ["threshold", "topk", "two-thresholds"]
