"""Adapters in PEFT's layout: merged or beside the weights, each request its own, and every tensor accounted for."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.live import live
from tests.outcomes import outcomes
from tests.synthetic import SINGLE_FILE, edit_json, edit_tensors, synthetic_llada
from tests.synthetic_relatives import FAMILIES
from unmask import LLM
from unmask.engine import Engine
from unmask.engine.caching import choose_cache
from unmask.engine.errors import RequestError
from unmask.engine.request import Request
from unmask.engine.scoring import Question
from unmask.models.errors import CheckpointError
from unmask.models.loading import Model, load_model
from unmask.models.lora import CONFIG_FILE, WEIGHTS_FILE, Adapted
from unmask.models.whole import whole_rows
from unmask.schedulers import parse_scheduler

EXACT = 1e-5  # float32, of the largest value: the same sums in another order
RANK, ALPHA = 4, 12
TOKENS = torch.randint(3, 260, (3, 20), generator=torch.Generator().manual_seed(0))
# Of each family: the modules that an adapter changes, by the last parts of their names in the checkpoint.
TARGETS = {
    "llada": ["q_proj", "v_proj", "attn_out", "ff_proj", "up_proj"],
    "dream": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "sdar": ["q_proj", "o_proj", "down_proj"],
    "fast_dllm": ["k_proj", "v_proj", "gate_proj"],
    "llada2": ["query_key_value", "dense"],
}


def adapter(folder: Path, checkpoint: Path, targets: list[str], seed: int = 1, **config: Any) -> Path:
    """Write an adapter for the modules of a checkpoint that have these names. Returns its folder."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(checkpoint / SINGLE_FILE).items():
        module = name.removesuffix(".weight")
        if any(module.endswith(f".{target}") for target in targets) and weight.dim() == 2:
            down, up = (
                torch.randn(shape, generator=generator) for shape in ((RANK, weight.shape[1]), (len(weight), RANK))
            )
            tensors[f"base_model.model.{module}.lora_A.weight"] = 0.1 * down
            tensors[f"base_model.model.{module}.lora_B.weight"] = 0.1 * up
    save_file(tensors, folder / WEIGHTS_FILE)
    written = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none", **config}
    (folder / CONFIG_FILE).write_text(json.dumps(written))
    return folder


def merged_by_hand(checkpoint: Path, folder: Path, scale: float = ALPHA / RANK) -> None:
    """Add an adapter to the tensors of a checkpoint: W + s B A."""
    factors = load_file(folder / WEIGHTS_FILE)

    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in factors:
                tensors[name] += scale * factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]

    edit_tensors(checkpoint, change)


def load(folder: Path, *lora: str, **how: Any) -> Model:
    return load_model(str(folder), device="cpu", dtype="float32", lora=lora, **how)


def logits(model: Model, adapters: tuple[int | None, ...] = (None, None, None)) -> Tensor:
    """Of TOKENS, each row by its own adapter."""
    batch = whole_rows(TOKENS, model.network.architecture)
    every = torch.arange(TOKENS.numel()).view(TOKENS.shape)
    groups = []
    for one in sorted({a for a in adapters if a is not None}):
        tokens = torch.cat([every[row] for row, a in enumerate(adapters) if a == one])
        groups.append(Adapted(one, tokens, tokens))
    with torch.no_grad():
        return model.network.head(model.network(replace(batch, adapted=tuple(groups)))).view(*TOKENS.shape, -1)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=EXACT * float(expected.abs().max()), rtol=0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return synthetic_llada(tmp_path / "base")


@pytest.fixture
def two(tmp_path: Path, base: Path) -> tuple[str, str]:
    """Two adapters for `base`, named a and b, which change other modules."""
    first = adapter(tmp_path / "a", base, ["q_proj", "v_proj", "ff_out"], seed=1, target_modules="all-linear")
    tensors = load_file(first / WEIGHTS_FILE)  # the head is one of LLaDA's ff_out
    save_file({name: t for name, t in tensors.items() if "transformer.ff_out" not in name}, first / WEIGHTS_FILE)
    second = adapter(tmp_path / "second", base, TARGETS["llada"], seed=2)
    return str(first), f"{second}=b"


# Merged


@pytest.mark.parametrize("family", TARGETS)
def test_merged_is_the_sum(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "base")
    found = logits(load(folder, str(adapter(tmp_path / "a", folder, TARGETS[family]))))
    before = logits(load(folder))
    merged_by_hand(folder, tmp_path / "a")
    assert_equal(found, logits(load(folder)))
    assert (found - before).abs().max() > 0.1


def test_ranks_may_be_stabilised(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "a", base, ["q_proj"], use_rslora=True)
    found = logits(load(base, str(folder)))
    merged_by_hand(base, folder, ALPHA / RANK**0.5)
    assert_equal(found, logits(load(base)))


def test_experts_head_and_router_can_be_merged(tmp_path: Path) -> None:
    folder = FAMILIES["sdar_moe"](tmp_path / "base")
    one = adapter(tmp_path / "a", folder, ["gate_proj", "down_proj", "gate"])
    tensors = load_file(one / WEIGHTS_FILE)
    head = load_file(folder / SINGLE_FILE)["lm_head.weight"]
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.randn(RANK, head.shape[1])
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.randn(len(head), RANK)
    save_file(tensors, one / WEIGHTS_FILE)
    found = logits(load(folder, str(one)))
    merged_by_hand(folder, one)
    assert_equal(found, logits(load(folder)))


# Beside the weights


@pytest.mark.parametrize("family", TARGETS)
def test_beside_equals_merged(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "base")
    one, other = (str(adapter(tmp_path / name, folder, TARGETS[family], seed)) for seed, name in enumerate("ab"))
    both = load(folder, one, other)
    assert both.adapters == ("a", "b")
    found = logits(both, (0, None, 1))
    for row, model in enumerate((load(folder, one), load(folder), load(folder, other))):
        assert_equal(found[row], logits(model)[row])


def requests(model: Model, **changes: Any) -> list[Request]:
    """Of both adapters and none in turn: they differ in prompt, length, blocks, scheduler, cache and temperature."""
    a = model.network.architecture
    length = a.block_size or 4
    return [
        Request(
            str(i),
            prompt=tuple(range(3, 8 + i % 5)),
            max_tokens=length * (1 + i % 3),
            block_length=length,
            scheduler=parse_scheduler(("topk", "threshold", "entropy")[i % 4 % 3], {}),
            temperature=(0.0, 0.7)[i // 2 % 2],
            seed=i,
            cache=choose_cache(("none", "prefix" if a.block_size is None else "block")[i // 3 % 2], a),
            adapter=(None, 0, 1)[i % 3],
            **changes,
        )
        for i in range(12)
    ]


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@pytest.mark.parametrize("static", [False, True])
def test_two_adapters_and_none_in_one_batch_equal_each_alone(family: str, static: bool, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / "base")
    both = [str(adapter(tmp_path / name, folder, TARGETS[family], seed)) for seed, name in enumerate("ab")]
    model = load(folder, *both)
    asked = requests(model)
    together = outcomes(model, asked, static=static)
    assert together == [outcomes(model, [one])[0] for one in asked]
    plain = [replace(one, adapter=None) for one in asked]
    for adapter_of, alone in ((None, load(folder)), (0, load(folder, both[0])), (1, load(folder, both[1]))):
        for i, one in enumerate(asked):
            if one.adapter == adapter_of:
                assert outcomes(alone, [plain[i]])[0] == together[i]
    assert together != outcomes(model, plain)


def test_a_compiler_takes_adapters_as_one_graph(base: Path, two: tuple[str, str]) -> None:
    model = load(base, *two)
    expected = logits(model, (1, None, 0))
    model.network.compile(backend="eager", dynamic=True, fullgraph=True)
    assert_equal(logits(model, (1, None, 0)), expected)


def test_beside_quantised_weights(base: Path, two: tuple[str, str]) -> None:
    """They are not rounded themselves."""
    model, plain = load(base, *two, quantization="int8"), load(base, quantization="int8")
    found, before = logits(model, (0, None, 1)), logits(plain)
    assert_equal(found[1], before[1])
    assert (found[0] - before[0]).abs().max() > 0.1


def test_scores_are_of_the_adapter(base: Path, two: tuple[str, str]) -> None:
    model = load(base, *two)
    engine = Engine(model, max_rows=4)
    questions = [Question((5, model.mask_id, 7), (1,), (9,), which) for which in (None, 0, 1)]
    together = [one.log_probabilities for one in engine.score(questions)]
    for question, lora, found in zip(questions, ((), two[:1], two[1:]), together, strict=True):
        (alone,) = Engine(load(base, *lora), max_rows=4).score([replace(question, adapter=None)])
        assert_equal(torch.tensor(found), torch.tensor(alone.log_probabilities))
    assert len(set(together)) == 3


def test_memory_is_counted(base: Path, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    factors = sum(
        tensor.nbytes for one in two for tensor in load_file(Path(one.partition("=")[0]) / WEIGHTS_FILE).values()
    )
    seen: list[int] = []
    monkeypatch.setattr("unmask.models.loading.require_memory", lambda *_, beside: seen.append(beside))
    load(base, *two)
    assert seen == [factors]


# What is asked for


def test_a_server_of_two_adapters(base: Path, two: tuple[str, str]) -> None:
    body = {"prompt": "the 12 the", "max_tokens": 8, "scheduler": "topk", "seed": 1}
    with live(base, lora=two) as server:
        cards = server.http.get("/v1/models").json()["data"]
        answers = {name: server.generate(**body, model=name) for name in ("base", "a", "b")}
        chat = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 8, "model": "b"}
        answer = server.http.post("/v1/chat/completions", json=chat).json()
        score = {"prompt": "the", "completion": "12 the"}
        scores = [server.http.post("/score", json={**score, "model": name}).json() for name in ("base", "a", "b")]
        refused = server.http.post("/generate", json={**body, "model": "c"})
        tags = server.http.get("/api/tags").json()["models"]
    assert [(card["id"], card["adapter"]) for card in cards] == [("base", None), ("a", "a"), ("b", "b")]
    assert [tag["name"].removesuffix(":latest") for tag in tags] == ["base", "a", "b"]
    assert {name: one["model"] for name, one in answers.items()} == {"base": "base", "a": "a", "b": "b"}
    assert len({tuple(one["token_ids"]) for one in answers.values()}) == 3
    assert answer["model"] == "b"
    assert len({json.dumps(one["patterns"] if "patterns" in one else one["log_probabilities"]) for one in scores}) == 3
    assert refused.status_code == 404
    assert "this server has 'base' and 'a' and 'b'" in refused.json()["error"]["message"]
    for name, lora in (("base", ()), ("a", two[:1]), ("b", two[1:])):
        llm = LLM(str(base), device="cpu", dtype="float32", lora=lora)
        (alone,) = llm.generate("the 12 the", max_tokens=8, scheduler="topk", seed=1, progress=False)
        assert list(alone.token_ids) == answers[name]["token_ids"]


def test_one_adapter_gives_the_server_its_name(base: Path, two: tuple[str, str]) -> None:
    with live(base, lora=two[1:]) as server:
        (card,) = server.http.get("/v1/models").json()["data"]
        assert server.http.post("/generate", json={"prompt": "the", "model": "base"}).status_code == 404
    assert (card["id"], card["root"], card["adapter"]) == ("b", "base", "b")


def test_python_chooses_by_name(base: Path, two: tuple[str, str]) -> None:
    llm = LLM(str(base), device="cpu", dtype="float32", lora=two)
    texts = {
        llm.generate("the 12", max_tokens=8, adapter=name, progress=False)[0].token_ids for name in (None, "a", "b")
    }
    assert len(texts) == 3
    with pytest.raises(RequestError, match="adapter 'c' is not there; the adapters are: a, b"):
        llm.generate("the", adapter="c", progress=False)


def test_an_engine_refuses_what_is_not_there(base: Path) -> None:
    engine = Engine(load(base), max_rows=1)
    with pytest.raises(RequestError, match="there is no adapter 0; the model has 0"):
        engine.prepare(replace(requests(engine.model)[0], adapter=0))


# What is refused

Q = "base_model.model.model.transformer.blocks.1.q_proj"


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def with_one(name: str, shape: tuple[int, int]) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(f"{Q}.lora_A.weight"), "lacks lora_A of model.transformer.blocks.1.q_proj"),
        (with_one("base_model.model.model.transformer.blocks.9.q_proj.lora_A.weight", (4, 32)), "does not have"),
        (with_one(f"{Q}.lora_magnitude_vector", (4, 32)), "which is no factor of LoRA"),
        (
            with_one("model.transformer.wte.weight", (4, 32)),
            "a tensor model.transformer.wte.weight, which is",
        ),
        (with_one(f"{Q}.lora_A.weight", (5, 32)), r"factors of \[5, 32\] .* the rank is 4"),
        (with_one(f"{Q}.lora_A.weight", (4, 31)), r"adds \[32, 31\] to .*q_proj.weight, which is \[32, 32\]"),
        (
            lambda t: [t.pop(f"{Q}.lora_{x}.weight") for x in "AB"],
            "targets model.transformer.blocks.1.q_proj and has no factors",
        ),
    ],
)
def test_every_tensor_is_accounted_for(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path, base: Path
) -> None:
    folder = adapter(tmp_path / "a", base, ["q_proj"])
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=f"adapter 'a' {'.*'}{said}"):
        load(base, str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "has use_dora = True in adapter_config.json; only plain LoRA is supported"),
        ({"peft_type": "IA3"}, "has peft_type = 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "has rank_pattern"),
        ({"r": 0}, "must have numbers lora_alpha and r"),
        ({"lora_alpha": None}, "must have numbers lora_alpha and r"),
    ],
)
def test_other_kinds_are_refused(config: Mapping[str, Any], said: str, tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "a", base, ["q_proj"])
    edit_json(folder / CONFIG_FILE, **config)
    with pytest.raises(CheckpointError, match=said):
        load(base, str(folder))


def test_what_cannot_stand_beside_is_refused(tmp_path: Path) -> None:
    folder = FAMILIES["sdar_moe"](tmp_path / "base")
    plain = str(adapter(tmp_path / "a", folder, ["q_proj"]))
    experts = str(adapter(tmp_path / "b", folder, ["gate_proj"]))
    with pytest.raises(CheckpointError, match="beside which there is no place for one; give this --lora alone"):
        load(folder, plain, experts)


def test_a_tied_head_is_refused(tmp_path: Path) -> None:
    folder = FAMILIES["sdar"](tmp_path / "base", tie_word_embeddings=True)
    one = adapter(tmp_path / "a", folder, ["q_proj"])
    tensors = load_file(one / WEIGHTS_FILE)
    tensors |= {
        f"base_model.model.lm_head.lora_{x}.weight": torch.zeros(s) for x, s in (("A", (4, 32)), ("B", (288, 4)))
    }
    save_file(tensors, one / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"changes lm_head\.weight, which is the embedding, too"):
        load(folder, str(one))


def test_an_adapter_of_the_hub(
    tmp_path: Path, base: Path, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Hub's client keeps it; its name is its Hub id."""
    cached = tmp_path / "hub" / "models--owner--law"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    shutil.copytree(two[0], cached / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load(base, "owner/law").merged == "owner/law"
    assert load(base, "owner/law=law", two[1]).adapters == ("law", "b")
    assert_equal(logits(load(base, "owner/law")), logits(load(base, two[0])))
    with pytest.raises(CheckpointError, match="'owner/other' cannot be fetched from the Hub"):
        load(base, "owner/other")


def test_names_and_folders(tmp_path: Path, base: Path, two: tuple[str, str]) -> None:
    with pytest.raises(CheckpointError, match="two adapters are called 'a'; name one in --lora as a=ANOTHER"):
        load(base, two[0], two[0])
    with pytest.raises(CheckpointError, match="adapter 'nowhere' is no folder and no Hub id"):
        load(base, "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"adapter_config.json cannot be read in"):
        load(base, str(tmp_path / "empty"))
    Path(two[0], WEIGHTS_FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        load(base, two[0])
    Path(two[0], WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"adapter 'a' has no adapter_model\.safetensors in .*; only safetensors"):
        load(base, two[0])
