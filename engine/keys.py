"""Where the keys and values of a row are, and as far as which column they are final."""

from dataclasses import dataclass, field


@dataclass
class Keys:
    """What is kept of one row's keys and values.

    slot   where; None if nothing is
    until  block-causal: the slot holds those of the columns before this one, and they are final
    pages  how many first pages of the slot were found or computed by themselves, see `engine.prefixes`
    names  of its first pages, as far as they were asked for
    found  given tokens whose keys and values were found; None if none were looked for
    """

    slot: int | None = None
    until: int = 0
    pages: int = 0
    names: list[bytes] = field(default_factory=list)
    found: int | None = None
