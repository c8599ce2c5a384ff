"""The running requests as tensors: tokens and masks on the device, one row a request."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.canvas import Canvas
from engine.proposal import Proposal
from engine.request import Reveal
from engine.transfer import upload


@dataclass(frozen=True)
class Window:
    """What one step works on, for B rows whose widest block has W columns.

    in_block    (B, W) bool  false in the padding of narrower blocks
    mask        (B, W) bool  masked positions of the block
    tokens      (B, W) long
    canvas      (B, W) long  the column of `Batch.tokens` that each entry stands for; padding points at the spare column
    positions   (B, W) long  counted from the start of the generation region
    masked      (B, M) long  the columns of this window that hold masks, leftmost first, padded with others
    wanted      (B, M) long  the same as columns of `Batch.tokens`: the positions that the head runs on
    block_start, block_end, length, step, block_step  (B,) long
    last_pass   (B,) bool    rows that may have no forward pass after this one
    """

    in_block: Tensor
    mask: Tensor
    tokens: Tensor
    canvas: Tensor
    positions: Tensor
    masked: Tensor
    wanted: Tensor
    block_start: Tensor
    block_end: Tensor
    length: Tensor
    step: Tensor
    block_step: Tensor
    last_pass: Tensor


class Batch:
    """Rows of canvases, padded on the right to the longest. One spare column at the end takes what padding writes."""

    def __init__(self, mask_id: int, device: torch.device):
        self._mask_id = mask_id
        self._device = device
        self._lengths: list[int] = []  # prompt + generation region of each row
        self._prompt = torch.zeros(0, dtype=torch.long, device=device)  # (B,) length of each prompt
        self._tokens = torch.zeros(0, 1, dtype=torch.long, device=device)  # (B, T + 1)
        self._masked = torch.zeros(0, 1, dtype=torch.bool, device=device)  # (B, T + 1)
        self._key_mask: Tensor | None = None

    @property
    def tokens(self) -> Tensor:  # (B, T)
        return self._tokens[:, :-1]

    @property
    def key_mask(self) -> Tensor | None:  # (B, T) bool, or None where no row is padded
        return self._key_mask

    def join(self, canvases: Sequence[Canvas]) -> None:
        """Add a row for each canvas, all of its generation region masked."""
        lengths = [len(canvas.request.prompt) + canvas.request.max_tokens for canvas in canvases]
        self._fit(max(self._lengths + lengths))
        tokens = torch.full((len(canvases), self._tokens.shape[1]), self._mask_id)
        masked = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, (canvas, length) in enumerate(zip(canvases, lengths, strict=True)):
            prompt = torch.tensor(canvas.request.prompt)
            tokens[row, : len(prompt)] = prompt
            masked[row, len(prompt) : length] = True
        self._tokens = torch.cat([self._tokens, upload(tokens, self._device)])
        self._masked = torch.cat([self._masked, upload(masked, self._device)])
        prompts = upload([len(canvas.request.prompt) for canvas in canvases], self._device)
        self._prompt = torch.cat([self._prompt, prompts])
        self._lengths += lengths
        self._update_key_mask()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but these, in this order."""
        index = upload(torch.tensor(rows, dtype=torch.long), self._device)
        self._tokens, self._masked, self._prompt = self._tokens[index], self._masked[index], self._prompt[index]
        self._lengths = [self._lengths[row] for row in rows]
        self._fit(max(self._lengths, default=0))
        self._update_key_mask()

    def window(self, canvases: Sequence[Canvas]) -> Window:
        """The current block of every row, and its masked positions."""
        phases = [
            (c.block_start, c.block_end, c.request.max_tokens, c.step, c.block_step, c.last_pass) for c in canvases
        ]
        block_start, block_end, length, step, block_step, last_pass = upload(phases, self._device).unbind(1)
        width = max(end - start for start, end, *_ in phases)
        positions = block_start[:, None] + torch.arange(width, device=self._device)  # (B, W)
        in_block = positions < block_end[:, None]
        spare = self._tokens.shape[1] - 1
        canvas_columns = torch.where(in_block, self._prompt[:, None] + positions, spare)
        mask = self._masked.gather(1, canvas_columns)
        masks = max(canvas.masks_in_block for canvas in canvases)
        masked = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :masks]  # (B, M)
        return Window(
            in_block=in_block,
            mask=mask,
            tokens=self._tokens.gather(1, canvas_columns),
            canvas=canvas_columns,
            positions=positions,
            masked=masked,
            wanted=canvas_columns.gather(1, masked).clamp(max=spare - 1),
            block_start=block_start,
            block_end=block_end,
            length=length,
            step=step,
            block_step=block_step,
            last_pass=last_pass.bool(),
        )

    def commit(self, window: Window, proposal: Proposal, reveal: Tensor, remask: Tensor) -> None:
        """Write the proposals where `reveal` (B, W) is true and masks where `remask` (B, W) is."""
        tokens = torch.where(reveal, proposal.ids, window.tokens).masked_fill(remask, self._mask_id)
        self._tokens.scatter_(1, window.canvas, tokens)
        self._masked.scatter_(1, window.canvas, (window.mask & ~reveal) | remask)

    def _fit(self, length: int) -> None:
        """Grow or cut the rows to `length` columns and the spare one."""
        more = length + 1 - self._tokens.shape[1]
        self._tokens = torch.nn.functional.pad(self._tokens, (0, more), value=self._mask_id)
        self._masked = torch.nn.functional.pad(self._masked, (0, more), value=False)

    def _update_key_mask(self) -> None:
        self._key_mask = None
        if len(set(self._lengths)) > 1:
            lengths = upload(self._lengths, self._device)
            self._key_mask = torch.arange(self.tokens.shape[1], device=self._device) < lengths[:, None]


def read(
    canvases: Sequence[Canvas], proposal: Proposal, reveal: Tensor, remask: Tensor
) -> list[tuple[tuple[Reveal, ...], tuple[int, ...]]]:
    """What each row revealed and remasked: the step's one transfer to the host."""
    packed = torch.stack([reveal.int(), remask.int(), proposal.ids.int(), proposal.confidence.view(torch.int32)])
    revealed, remasked, ids, bits = packed.cpu().unbind(0)
    probabilities = bits.view(torch.float32)
    outcome = []
    for row, canvas in enumerate(canvases):
        start = canvas.block_start
        columns = revealed[row].nonzero().flatten().tolist()
        chosen = zip(columns, ids[row, columns].tolist(), probabilities[row, columns].tolist(), strict=True)
        reveals = tuple(Reveal(start + column, token, probability) for column, token, probability in chosen)
        outcome.append((reveals, tuple(start + column for column in remasked[row].nonzero().flatten().tolist())))
    return outcome
