"""From logits to proposals: statistics against their definitions, sampling against the distribution it draws from."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from unmask.engine.input_state import Embeddings, Shares
from unmask.engine.proposal import SAMPLING_STREAM, Blend, Sampling, propose
from unmask.schedulers import Needs, counter_uniform

V = 8
ALLOWED = torch.zeros(V, dtype=torch.bool)
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
DRAWS = 20_000
SAMPLING_ERROR = 0.02  # more than five standard deviations of a frequency of DRAWS
ROUNDING = 1e-6


def identity(logits: Tensor) -> Tensor:
    return logits


def frequencies(temperature: float, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """How often each token is proposed at DRAWS positions with the same logits."""
    draws = counter_uniform(torch.tensor([7]), torch.arange(DRAWS), SAMPLING_STREAM)
    numbers = (torch.full((DRAWS,), number) for number in (temperature, top_p, top_k))
    drawn = propose(identity, LOGITS.expand(DRAWS, V), ALLOWED, Needs(), Sampling(torch.arange(DRAWS), draws, *numbers))
    return torch.bincount(drawn.ids, minlength=V) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(0)
    assert (frequencies(temperature) - expected).abs().max() < SAMPLING_ERROR


def test_top_k_keeps_the_k_most_probable_and_their_proportions() -> None:
    expected = torch.zeros(V)
    expected[:3] = LOGITS[:3].softmax(0)
    assert (frequencies(1.0, top_k=3) - expected).abs().max() < SAMPLING_ERROR
    assert frequencies(1.0, top_k=3)[3:].sum() == 0


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    p = LOGITS.softmax(0)  # .39 .24 .14 .09 ...
    just_above_two = (p[0] + p[1]).item() + 0.01
    found = frequencies(1.0, top_p=just_above_two)
    assert (found[:3] > 0).all()
    assert found[3:].sum() == 0
    assert frequencies(1.0, top_p=0.01)[0] == 1


def test_the_most_probable_allowed_token_is_proposed_without_sampling() -> None:
    forbidden = ALLOWED.clone()
    forbidden[0] = True
    seen = propose(identity, LOGITS[None], forbidden, Needs(top_k=2, entropy=True), None)
    p = LOGITS.softmax(0)
    assert seen.ids.tolist() == [1]
    assert seen.confidence.item() == pytest.approx(p[1].item(), abs=ROUNDING)
    assert seen.top_ids is not None
    assert seen.top_probabilities is not None
    assert seen.entropy is not None
    assert seen.top_ids.tolist() == [[1, 2]]
    assert seen.top_probabilities[0].tolist() == pytest.approx(p[1:3].tolist(), abs=ROUNDING)
    assert seen.entropy.item() == pytest.approx(-(p * p.log()).sum().item(), abs=ROUNDING)


def test_chunks_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(30, V, generator=torch.Generator().manual_seed(0))
    index = torch.arange(1, 30, 3)
    numbers = (torch.full((10,), number) for number in (0.8, 0.9, 4))
    sampling = Sampling(index, torch.linspace(0, 0.99, 10), *numbers)
    asked = (ALLOWED, Needs(top_k=2, entropy=True, kl=True), sampling, hidden.flip(0))
    standing = torch.arange(30) % V
    shares = Shares(torch.linspace(0.5, 1.5, 30), torch.linspace(0, 1, 30), torch.arange(30) % 2 == 0)
    blend = Blend(Embeddings(torch.eye(V), 3), shares)
    whole = propose(identity, hidden, *asked, standing=standing, blend=blend)
    monkeypatch.setattr("unmask.engine.proposal.CHUNK_BYTES", 7 * 4 * V)
    parts = propose(identity, hidden, *asked, standing=standing, blend=blend)
    assert whole.fed is not None
    for field in (field for field in fields(whole) if field.name not in ("stops", "hidden")):  # which the engine adds
        assert torch.equal(getattr(parts, field.name), getattr(whole, field.name))
