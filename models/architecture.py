"""The shape of a network: all that differs between the families."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Groups:
    """Experts in groups of equal size, of which the best few are open to a token (DeepSeek-V3, arXiv 2412.19437, 2.1).

    kept   groups that are open to a token
    scale  of the experts' sum, before the shared experts are added
    """

    count: int
    kept: int
    scale: float


@dataclass(frozen=True)
class BlockExperts:
    """Experts that are chosen for a block of positions: each is as good as the token that scores it highest makes it,
    and the best few are open to all tokens of the block (LLaDA2.2).

    block_size  positions of a block; the first block begins at position 0
    kept        experts that are open to a block
    scale       of the experts' sum, before the shared experts are added
    """

    block_size: int
    kept: int
    scale: float


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward.

    chosen        experts that each token goes through
    first_layer   layers before this one are dense
    shared_size   of the experts that every token goes through, taken as one; 0 if there are none
    sums_to_one   the softmax scores of the chosen are divided by their sum
    groups        None: softmax scores choose among all. Otherwise sigmoid scores and a learned bias choose among those
                  that are open to the token or to its block
    """

    count: int
    chosen: int
    ffn_size: int
    first_layer: int = 0
    shared_size: int = 0
    groups: Groups | BlockExperts | None = None
    sums_to_one: bool = True


@dataclass(frozen=True)
class LongContext:
    """How a network that was trained on shorter texts reads longer ones.

    positions   that it was trained on at first
    factor      by which the slow dimensions of a head turn slower (YaRN, arXiv 2309.00071, section 3.2)
    fast, slow  turns over those positions: dimensions with more than `fast` stay as they are, those with less than
                `slow` turn slower by the whole factor, and those between by a part of it
    query_beta  queries at position p are scaled by 1 + query_beta ln(1 + floor(p / positions)), as in Llama 4
    """

    positions: int
    factor: float
    fast: float
    slow: float
    query_beta: float


@dataclass(frozen=True)
class Architecture:
    """The shape of one network.

    ffn_size    of a layer without experts
    rotary_dim  how many dimensions of a head are rotated, from its first on; None rotates all
    qk_norm     normalise each head of queries and keys, before they are rotated
    shift       raw logits at position i predict token i + 1 (Dream)
    block_size  of a block-causal network: a token attends to its own block and to those before it. None attends to all
    from_prompt_end  blocks are counted from the end of the prompt, so that its first one may be cut (tiny-a2d's BD3LM);
                otherwise from the first column
    causal      what is before the current block is read from left to right, also the prompt, and only that block sees
                all of itself. Its first token is predicted by the column before it, the others by their own. Blocks may
                be of any size that divides `block_size` (Nemotron-Labs-Diffusion)
    """

    vocab_rows: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    qkv_bias: bool = False
    qk_norm: bool = False
    rotary_dim: int | None = None
    experts: Experts | None = None
    tied_head: bool = False
    rope_float32: bool = False
    shift: bool = False
    block_size: int | None = None
    from_prompt_end: bool = False
    causal: bool = False
    long_context: LongContext | None = None

    @property
    def reach(self) -> int:
        """Distance from a wanted column to the column on its left whose hidden state predicts it."""
        return int(self.shift)

    def block(self, asked: int) -> int | None:
        """The size of the blocks that it works in for a request of so long blocks; None if it attends both ways."""
        return asked if self.causal else self.block_size

    def lead(self, prompt: int) -> int:
        """How many columns the first block of a canvas lacks whose prompt has so many tokens."""
        return 0 if self.block_size is None or not self.from_prompt_end else -prompt % self.block_size
