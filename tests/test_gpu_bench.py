"""The timings of `make gpu`, on a CPU and a small shape: every case is stepped to its end."""

import pytest
import torch

from tests.gpu_packages import missing
from unmask.evals.bench import gpu
from unmask.evals.bench.roofline import Machine, Work, bytes_moved, operations
from unmask.evals.bench.shapes import SHAPES, random_model
from unmask.models.loading import Model

SMALL = {"d_model": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 128}
SMALL |= {"vocab_size": 2048, "embedding_size": 2048, "mask_token_id": 2000, "eos_token_id": 2001}


@pytest.mark.parametrize("case", [case for case in gpu.CASES if case.rows < 32], ids=str)
def test_cases_fill_the_region_in_the_passes_that_they_name(case: gpu.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "llada-8b", {**SHAPES["llada-8b"], **SMALL})
    model = random_model(SHAPES["llada-8b"], "llada-8b", "cpu", "float32")
    timing = gpu.time_case(model, case, region=64)
    assert timing.passes == 64 // case.revealed
    assert 0 < timing.median_ms <= timing.slowest_ms
    assert timing.tokens_per_second > 0


def test_the_roofline_is_of_the_work_that_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "llada-8b", {**SHAPES["llada-8b"], **SMALL})
    model = random_model(SHAPES["llada-8b"], "llada-8b", "cpu", "float32")
    timing = gpu.Timing(passes=4, median_ms=1, slowest_ms=1, tokens_per_second=32, peak_gib=0)  # 2 seconds
    shares = gpu.roofline(model, gpu.Case(1, "none", 16, False), timing, Machine(1e9, 1e6), region=64)
    # Each of two blocks asks for 32 masks, then for 16; every pass computes the prompt and the region.
    work = Work(steps=4, passes=4, positions=4 * (gpu.PROMPT + 64), keys=gpu.PROMPT + 64, wanted=96)
    a = model.network.architecture
    assert shares == pytest.approx((operations(a, work) / 2e9, bytes_moved(a, work, itemsize=4) / 2e6))


def test_a_case_that_needs_too_much_memory_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def roofline(model: Model, case: gpu.Case, *other: object) -> None:
        if case.cache == "dual":
            raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "roofline", roofline)
    monkeypatch.setitem(SHAPES, "llada-8b", {**SHAPES["llada-8b"], **SMALL})
    model = random_model(SHAPES["llada-8b"], "llada-8b", "cpu", "float32")
    cases = [gpu.Case(1, cache, 16, False) for cache in ("none", "dual", "none")]
    found = gpu.results(model, cases, Machine(1e9, 1e6), region=64)
    assert {"rows": 1, "cache": "none", "passes": 4}.items() <= next(found).items()
    assert capsys.readouterr().out.startswith("rows 1, cache none, 16 tokens a pass: ")  # before the others run
    assert len(list(found)) == 1
    assert "rows 1, cache dual, 16 tokens a pass: not enough memory\n" in capsys.readouterr().out


def test_without_a_card_every_case_is_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "skipped, as torch finds no CUDA device:"
    assert lines[1] == "llada-8b, rows 1, cache none, 16 tokens a pass"
    assert len(lines) == 1 + len({*gpu.CASES})


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    needed = ["torch>=2.11", "no_such.package>=1; python_version > '3'", 'other-one; extra == "plot"']
    monkeypatch.setattr("tests.gpu_packages.requires", lambda name: needed)
    assert missing() == ["no-such-package"]
