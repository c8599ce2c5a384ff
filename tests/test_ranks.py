"""A model over several processes equals the same in one, and none of them outlives the others."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from tests.live import ANSWER, PATIENCE, QUESTION, named_events, wait_for
from tests.process import answers, free_port, serving
from tests.synthetic import synthetic_llada
from tests.synthetic_relatives import FAMILIES
from tests.test_split import SOON, WIDE, command, followers
from unmask import LLM
from unmask.engine import Engine, Request
from unmask.engine.caching import check_needs, choose_cache
from unmask.engine.errors import RankLostError
from unmask.engine.input_state import parse_input_state
from unmask.engine.network import Network
from unmask.engine.ranks.group import Ranks
from unmask.engine.ranks.start import start_ranks
from unmask.engine.request import Result, fit_block_length
from unmask.engine.scoring import under_masks
from unmask.models.errors import CheckpointError
from unmask.models.loading import Model, load_model
from unmask.models.packing import Segment, pack_segments
from unmask.schedulers import parse_scheduler

CLOSE = 1e-4  # of logits and probabilities in float32: the same sums in another order
SERVE = "from unmask.cli import main; main(['serve', '--tensor-parallel', '2'])"
PASSES = 6  # of a request; what is left is then revealed
PROMPT = tuple(range(3, 24))
LONG = {"prompt": "hello", "max_tokens": 400, "stream": True}
# Beside the families: experts that are chosen for a block, a tied head, as many key/value heads as ranks.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("llada2", {"expert_capacity": 3, "block_size": 32, "n_group": None, "topk_group": None}),
    ("sdar", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("llada", {"n_kv_heads": 4}),
]
# What four ranks split otherwise than two: fewer key/value heads than ranks, experts, and the last three above.
SPLIT_FURTHER = [("llada", {}), ("sdar_moe", {}), *VARIANTS[-3:]]


@contextmanager
def started(size: int) -> Iterator[Ranks]:
    ranks = start_ranks(size, "cpu")
    assert ranks is not None
    try:
        yield ranks
    finally:
        ranks.close()


def load(folder: Path, ranks: Ranks) -> tuple[Model, Model]:
    """The model in one process, and this rank's part of it."""
    source = str(folder)
    with ranks.loading(source, None, "float32") as split:
        part = load_model(source, device="cpu", dtype="float32", split=split)
    return load_model(source, device="cpu", dtype="float32"), part


def requests(model: Model) -> list[Request]:
    """Rows with and without keys and values that are kept, and one that is fed what was thought of its masks."""
    a = model.network.architecture
    caches = ["none", "auto", "auto"] if a.block_size is not None else ["none", "dual:refresh=3", "prefix"]
    made = []
    for i, cache in enumerate(caches):
        length = 8 + 8 * i
        request = Request(
            id=str(i),
            prompt=PROMPT[i:],
            max_tokens=length,
            block_length=fit_block_length(8, length, a),
            scheduler=parse_scheduler(["topk", "klass", "threshold"][i]),
            cache=choose_cache(cache, a),
            temperature=float(i == 1),
            seed=i,
            input_state=parse_input_state("soft" if i == 0 else "mask"),
            max_forward_passes=PASSES,
        )
        check_needs(request.scheduler, request.cache, a)
        made.append(request)
    return made


def rows_that_leave(model: Model) -> list[Request]:
    """Rows of many lengths: slots are moved and made larger while others use theirs."""
    return [
        Request(
            id=str(i),
            prompt=PROMPT,
            max_tokens=16 + 40 * (i % 4),
            block_length=16,
            scheduler=parse_scheduler("threshold" if i % 2 else "topk"),
            cache=choose_cache("dual", model.network.architecture),
            seed=i,
            max_forward_passes=PASSES + 2 * i,
        )
        for i in range(6)
    ]


def decided(result: Result) -> list[tuple[int, int, int]]:
    return [(reveal.position, reveal.token_id, reveal.step) for reveal in result.reveals]


def logits(model: Model, ranks: Ranks | None = None) -> torch.Tensor:
    a, network = model.network.architecture, Network(model.network, ranks)
    columns = torch.arange(45).numpy()
    inputs = pack_segments([Segment(columns + 3, 0, 45, columns), Segment(columns[:9] + 99, 0, 9, columns[:9])], a)
    with torch.inference_mode():
        return network.head(network.hidden(inputs))


def assert_equal(whole: Model, part: Model, ranks: Ranks, asked: Sequence[Request], invariant: bool = False) -> None:
    one, several = Engine(whole, 4, batch_invariant=invariant), Engine(part, 4, batch_invariant=invariant, ranks=ranks)
    for _ in range(1 if whole.network.architecture.block_size is None else 2):  # then with prefixes that stayed
        expected, found = one.results(asked), several.results(asked)
        assert {id: decided(result) for id, result in found.items()} == {id: decided(r) for id, r in expected.items()}
    question = [under_masks(PROMPT, range(30, 40), [0, 4, 7], whole.mask_id)]
    (right,), (scored,) = (engine.score(question, top=2) for engine in (one, several))
    assert scored.log_probabilities == pytest.approx(right.log_probabilities, abs=CLOSE)


@pytest.mark.parametrize("size", [2, 4])
def test_several_ranks_equal_one_in_every_family_until_one_is_lost(size: int, tmp_path: Path) -> None:
    with started(size) as ranks:
        for i, (family, changes) in enumerate(VARIANTS if size == 2 else SPLIT_FURTHER):
            whole, part = load(FAMILIES[family](tmp_path / f"{family}-{i}", **WIDE.get(family, {}), **changes), ranks)
            torch.testing.assert_close(logits(part, ranks), logits(whole), atol=CLOSE, rtol=CLOSE)
            assert_equal(whole, part, ranks, requests(whole))
        for invariant in (False, True):
            assert_equal(whole, part, ranks, rows_that_leave(whole), invariant)
        (assert_a_failed_pass_ends_all if size == 2 else assert_a_death_is_noticed)(part, ranks)


def assert_a_failed_pass_ends_all(part: Model, ranks: Ranks) -> None:
    engine = Engine(part, ranks=ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part.network.blocks[1], "forward", lambda *how: 1 / 0)
        with pytest.raises(RankLostError, match=r"a pass failed in rank 0 of 2 \(ZeroDivisionError"):
            engine.results(requests(part)[:1])
    wait_for(lambda: not followers(os.getpid()), SOON)
    engine.reset()
    with pytest.raises(RankLostError, match="a pass failed in rank 0 of 2"):
        engine.results(requests(part)[:1])


def assert_a_death_is_noticed(part: Model, ranks: Ranks) -> None:
    followers(os.getpid())[1].kill()
    wait_for(lambda: ranks.lost is not None, SOON)
    with pytest.raises(RankLostError, match="rank 2 of 4 has ended, killed by SIGKILL; start again"):
        Engine(part, ranks=ranks)


def test_a_rank_that_cannot_load_is_named_with_its_error(tmp_path: Path) -> None:
    folder = str(synthetic_llada(tmp_path))
    said = r"rank 1 of 2 has ended, with exit code 1: CheckpointError: .*'float31'"
    with started(2) as ranks, pytest.raises(RankLostError, match=said), ranks.loading(folder, None, "float31") as split:
        load_model(folder, device="cpu", dtype="float32", split=split)


def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from unmask import LLM\n"
        "llm = LLM(device='cpu', dtype='float32', tensor_parallel=2)\n"
        f"print(llm.chat([{{'role': 'user', 'content': {QUESTION!r}}}], progress=False)[0].text)\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.strip() == ANSWER


def test_torchrun_must_start_as_many_ranks_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match="tensor_parallel is 4 and torchrun has started 2 ranks; make them agree"):
        start_ranks(4, "cpu")


@contextmanager
def served(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str, psutil.Process]]:
    """(process, address, its other rank) of `unmask serve` once it is ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(synthetic_llada(folder / "tiny", max_sequence_length=1024), port, SERVE, dtype="float32") as process:
        wait_for(lambda: answers(url) or process.poll() is not None)
        (other,) = followers(process.pid)
        yield process, url, other


def test_a_server_answers_as_one_process_and_ends_with_a_message_when_a_rank_is_killed(tmp_path: Path) -> None:
    with served(tmp_path) as (process, url, other):
        body = {"input_ids": list(PROMPT), "max_tokens": 48}
        answer = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE).json()
        llm = LLM(str(tmp_path / "tiny"), device="cpu", dtype="float32")
        (right,) = llm.generate([PROMPT], max_tokens=48, progress=False)
        assert answer["token_ids"] == list(right.token_ids)
        with httpx.stream("POST", f"{url}/generate", json=LONG, timeout=PATIENCE) as response:
            events = named_events(response)
            assert "step" in (name for name, _ in events)
            other.kill()
            *_, (last, data) = events
        assert (last, data["code"]) == ("error", "engine_failed")
        assert "rank 1 of 2 has ended, killed by SIGKILL" in data["message"]
        _, log = process.communicate(timeout=SOON)
    assert process.returncode == 1
    assert "the model is not running: rank 1 of 2 has ended, killed by SIGKILL; restart" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_no_rank_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with served(tmp_path) as (process, _, other):
        folder = Path(command(other)[-1]).parent
        assert folder.stat().st_mode & 0o077 == 0
        process.kill()
        wait_for(lambda: not command(other), SOON)
        wait_for(lambda: not folder.exists(), SOON)
