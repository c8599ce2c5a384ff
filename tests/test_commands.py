"""The command line: help, errors, settings from flags and environment, and each command on the embedded model."""

import json
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from unmask import cli, weights
from unmask.arguments import parse_settings
from unmask.commands import MASK
from unmask.evals.tasks import EMBEDDED, TASKS, Styled, take
from unmask.models.loading import load_model
from unmask.settings import GenerateSettings

LARGEST_CHECKPOINT = 16 * 2**20


def run(*arguments: str) -> None:
    cli.main([*arguments])


def question() -> tuple[str, str]:
    problem = next(TASKS["word-problems"].problems(0, "held-out"))
    return problem.prompt, problem.solution


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    run("--version")
    text = capsys.readouterr().out
    assert all(command in text for command in cli.COMMANDS)
    assert re.search(r"unmask \d+\.\d+", text)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bogus"], 2, "unknown command 'bogus'; the commands are: serve, generate"),
        (["generate", "hi", "--model", "nowhere"], 1, "model 'nowhere' is no folder"),
        (
            ["generate", "hi", "--scheduler", "nothing"],
            1,
            "unknown scheduler 'nothing'; the schedulers are: ada-block, ",
        ),
        (["generate", "hi", "--scheduler", "topk:k=1"], 1, "unknown option 'k'; the options are: n, steps"),
        (
            ["generate", "hi", "--max-tokens", "0"],
            2,
            "--max-tokens must be at least 1, not '0'",
        ),
        (["generate", "hi", "--max-tokens", "9999"], 1, "--max-tokens of 9999 tokens are more than the 512 positions"),
        (["generate", "", "--raw"], 1, "the prompt holds no tokens"),
        (["sreve"], 2, "unknown command 'sreve'; did you mean 'serve'? The commands are: serve"),
        (["generate", "hi", "--cache", "large", "--model", "nowhere"], 1, "cache 'large' is unknown"),
        (["generate", "hi", "--scheduler", "policy:policy=anyspeed"], 1, "did you mean 'any-speed'?"),
        (["eval", "--cache", "large", "--model", "nowhere"], 1, "cache 'large' is unknown"),
        (["generate", "hi", "--input-state", "hard", "--model", "nowhere"], 1, "unknown input state 'hard'"),
        (["eval", "--input-state", "hard", "--model", "nowhere"], 1, "unknown input state 'hard'"),
        (["serve", "--input-state", "soft:a=1"], 2, "unknown option 'a'"),
        (["eval", "--task", "sudoko"], 1, "unknown task 'sudoko'; did you mean 'sudoku'? The tasks are"),
        (
            ["eval", "--task", "sudoku", "--json", "/nowhere/x"],
            2,
            "there is no folder /nowhere; make it first",
        ),
        (["bench", "--scheduler", "topk:k=1", "--model", "nowhere"], 1, "unknown option 'k'"),
        (["bench", "--rate", "2"], 2, "--rate is for runs over HTTP; add --http"),
        (["train-policy", "--task", "chess", "--model", "nowhere"], 1, "unknown task 'chess'; the tasks are"),
        (["serve", "--device", "cuda"], 1, "torch finds no CUDA"),
        (["eval", "--task", "chess"], 1, "unknown task 'chess'; the tasks are: word-problems, sudoku"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    said = capsys.readouterr().err
    assert end.value.code == code
    assert said.startswith("unmask")
    assert message in said
    assert said.count("\n") == 1


def test_serving_a_model_that_is_not_there_fails_in_one_sentence() -> None:
    command = [sys.executable, "-m", "unmask", "serve", "nowhere", "--port", "8999"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "model 'nowhere' is no folder, no preset and no Hub id (owner/name); " in done.stderr.splitlines()[-1]


def test_serving_on_a_port_in_use_is_refused_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit, match="3"):
        run("serve", "--port", str(taken.getsockname()[1]))
    said = capsys.readouterr().err
    assert re.fullmatch(r"unmask serve: cannot listen on 127\.0\.0\.1:\d+: Address already in use; choose .*\n", said)


def test_an_empty_answer_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", "What is the capital of France?")
    shown = capsys.readouterr()
    assert not shown.out.strip()
    assert "llada-nano is a tiny model of two tasks" in shown.err


def test_the_tables_fit_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("schedulers")
    run("eval", "--task", "sudoku", "--scheduler", "policy:policy=full-diffusion:speed=0.3", "--problems", "2")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "  :policy=full-diffusion" in text
    assert "local AR, global AR: how far from left to right" in text


def test_the_command_line_wins_over_the_environment_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_settings(GenerateSettings, "unmask generate", ["hi"]).max_tokens is None
    monkeypatch.setenv("UNMASK_MAX_TOKENS", "9")
    assert parse_settings(GenerateSettings, "unmask generate", ["hi"]).max_tokens == 9
    assert parse_settings(GenerateSettings, "unmask generate", ["hi", "--max-tokens", "5"]).max_tokens == 5


def test_schedulers_lists_names_options_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    run("schedulers")
    text = capsys.readouterr().out
    assert all(name in text for name in ("entropy", "factor", "margin", "random", "threshold", "topk", "0.9"))


def test_generate_prints_only_the_text_when_piped() -> None:
    prompt, solution = question()
    command = [sys.executable, "-m", "unmask", "generate", prompt, "--scheduler", "threshold"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == solution
    assert "forward passes" in done.stderr


def test_generate_draws_the_canvas_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, solution = question()
    console = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr("unmask.commands.Console", lambda: console)
    with console.capture() as shown:
        run("generate", prompt, "--scheduler", "threshold", "--delay", "0")
    screen = shown.get()
    assert MASK in screen
    assert solution.splitlines()[-1] in screen
    assert screen.index(MASK) < screen.rindex(solution.splitlines()[-1])


def test_eval_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    task = "sudoku:template=1"
    run("eval", "--task", task, "--scheduler", "threshold:threshold=0.8", "--problems", "8", "--json", str(out))
    measured = json.loads(out.read_text())
    assert measured.pop("tokens_per_second") > 0
    assert 1 <= measured.pop("passes_low") <= measured.pop("forward_passes") <= measured.pop("passes_high") <= 48
    assert 0 <= measured.pop("accuracy_low") <= measured.pop("accuracy") <= measured.pop("accuracy_high") <= 1
    assert 0 < measured.pop("local_ar") <= 1
    assert 0 < measured.pop("global_ar") <= 1
    assert 1 <= measured.pop("answer_tokens") <= 48
    assert measured.pop("dtype") in ("float32", "bfloat16")
    expected = {"curve": "threshold", "task": task, "scheduler": "threshold", "options": {"threshold": 0.8}}
    rest = {"model": "llada-nano", "block_length": 32, "max_tokens": 48, "cache": "none", "problems": 8, "seed": 0}
    rest |= {"raw": False, "styles": {}, "input_state": "mask"}
    assert measured == expected | rest
    assert task in capsys.readouterr().out


def test_eval_tells_styles_apart(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    flags = "--task list-ops --scheduler topk:n=8 --problems 12 --max-tokens 16"
    run("eval", *flags.split(), "--json", str(out))
    styles = json.loads(out.read_text())["styles"]
    kinds = Counter(p.style("") for p in take(TASKS["list-ops"], 12, seed=0) if isinstance(p, Styled))
    assert {style: share for style, (share, _) in styles.items()} == {kind: n / 12 for kind, n in kinds.items()}
    assert all(0 <= accuracy <= 1 for _, accuracy in styles.values())


def test_the_embedded_model_is_small_and_solves_what_its_card_says() -> None:
    folder = weights.find("llada-nano")
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LARGEST_CHECKPOINT
    from unmask.evals.measure import Cell, measure
    from unmask.schedulers import parse_scheduler

    model = load_model("llada-nano", device="cpu", dtype="float32")
    for task in map(TASKS.__getitem__, EMBEDDED):
        topk, random = (
            measure(model, Cell(task, parse_scheduler(name), 32, problems=24, seed=3)) for name in ("topk", "random")
        )
        assert topk.accuracy >= 0.8  # at a true rate of 0.95, one draw of 24 in two thousand falls below
        assert random.accuracy < topk.accuracy


def test_eval_obeys_the_memory_that_caches_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
    flags = ["eval", "--task", "sudoku", "--scheduler", "threshold", "--problems", "2", "--cache", "dual"]
    with pytest.raises(SystemExit):  # a millionth of a gigabyte holds no canvas
        run(*flags, "--memory-fraction", "0.000001")
    run(*flags, "--memory-fraction", "0.9")
