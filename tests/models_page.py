"""What of docs/models.md is written by machine: the tables of presets, and what others published about them.
`python -m tests.models_page` writes them anew; a test finds out if that is due."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from unmask.engine.fit import PRECISIONS
from unmask.listing import network_for, parameters
from unmask.models.cache import KeyValues
from unmask.models.memory import GIB, needed_bytes
from unmask.models.presets import FOLDER, Preset, preset_names, read_preset
from unmask.models.quantization import precision

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
PART = re.compile(r"(<!-- (presets|memory|notes|published) -->\n\n?).*?(<!-- /\2 -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with its tables as the presets have them now."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", page)


def presets() -> list[Preset]:
    return [read_preset(FOLDER / f"{name}.toml") for name in preset_names()]


def _hub(checkpoint: str) -> str:
    return f"[{checkpoint}](https://huggingface.co/{checkpoint})" if "/" in checkpoint else "comes along"


def _table(rows: list[list[str]]) -> str:
    head, *others = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *others])


def presets_table() -> str:
    head = ["preset", "checkpoint", "licence", "scheduler", "block", "cache", "input state", "tokens"]
    rows = [
        [
            f"`{preset.name}`",
            _hub(preset.checkpoint),
            preset.licence or "",
            *(f"`{value}`" if isinstance(value := preset.defaults.get(name, ""), str) and value else str(value)
              for name in ("scheduler", "block_length", "cache", "input_state", "max_tokens")),
        ]
        for preset in presets()
    ]  # fmt: skip
    return _table([head, *rows])


def memory_table() -> str:
    kinds = [(getattr(torch, dtype), kind) for dtype, kind in PRECISIONS]
    head = ["preset", "billion parameters", *(precision(*kind) for kind in kinds), "keys and values of a token, MB"]
    rows = []
    for preset in presets():
        network = network_for(preset)
        experts = network.architecture.experts is not None
        needed = [
            "" if kind == "int4" and experts else f"{needed_bytes(network, dtype, kind) / GIB:.2f}"
            for dtype, kind in kinds
        ]
        column = KeyValues.bytes_per_column(network.architecture, torch.bfloat16) / 1e6
        rows.append([f"`{preset.name}`", f"{parameters(network) / 1e9:.3g}", *needed, f"{column:.3g}"])
    return _table([head, *rows])


def notes() -> str:
    return "".join(
        f"- `{preset.name}`: {preset.about}. {' '.join(preset.notes)}".rstrip() + "\n" for preset in presets()
    )


def published_table() -> str:
    return _table([["preset", "task", "decoding", "accuracy, %", "tokens per pass", "source"], *_published()])


def _published() -> Iterator[list[str]]:
    for preset in presets():
        for one in preset.published:
            numbers = [str(one.accuracy), str(one.tokens_per_pass)]
            yield [f"`{preset.name}`", one.task, one.decoding, *numbers, one.source]


PARTS: dict[str, Callable[[], str]] = {
    "presets": presets_table,
    "memory": memory_table,
    "notes": notes,
    "published": published_table,
}


def main() -> None:
    PAGE.write_text(render(PAGE.read_text()))


if __name__ == "__main__":
    main()
