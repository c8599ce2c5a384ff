"""The command `unmask models`: the presets, and which of them fit this machine, before anything is downloaded."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask import defaults
from unmask.engine.fit import PRECISIONS, Fit, fits
from unmask.errors import UserError, unknown
from unmask.models.devices import available_bytes, choose_device
from unmask.models.families import find_family
from unmask.models.loading import build_network
from unmask.models.memory import GIB
from unmask.models.presets import Preset, config_of, preset_named, preset_names
from unmask.models.transformer import MaskedTransformer
from unmask.settings import ModelsSettings

BESIDE = (defaults.MAX_ROWS, defaults.MEMORY_FRACTION)  # what `unmask serve` divides memory by
LEGEND = """GiB to load a model and for a first pass; {device} has {free:.1f} GiB free. int8 and
int4 are beside bfloat16. cached: tokens whose keys and values fit beside the
smallest weights."""
YES, NO = ("✓", "green"), ("✗", "red")


def models(settings: ModelsSettings) -> None:
    """Print a table of all presets, or all that is known of one."""
    device = choose_device(settings.device)
    available = available_bytes(device)
    if settings.preset is not None and settings.preset not in preset_names():
        raise UserError(unknown("preset", settings.preset, preset_names()))
    names = preset_names() if settings.preset is None else [settings.preset]
    presets = [preset_named(name) for name in names]
    console = Console()
    if settings.preset is not None:
        _describe(presets[0], console)
    rows = [(preset, network := network_for(preset), fits(network, device, available, *BESIDE)) for preset in presets]
    console.print(LEGEND.format(device=device, free=available / GIB), highlight=False)
    console.print(_table(rows))


def network_for(preset: Preset) -> MaskedTransformer:
    """The network of a preset on the meta device."""
    config = config_of(preset)
    return build_network(find_family(config), config)


def parameters(network: MaskedTransformer) -> int:
    """How many numbers the weights have; a tied head counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def _table(rows: list[tuple[Preset, MaskedTransformer, list[Fit | None]]]) -> Table:
    kinds = [kind or dtype for dtype, kind in PRECISIONS]
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("billion", *kinds, "cached"))
    table = Table(Column("preset", no_wrap=True), *numbers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for preset, network, found in rows:
        best = max((fit for fit in found if fit is not None and fit.fits), key=lambda fit: fit.columns, default=None)
        cached = "" if best is None else f"{best.columns / 1000:.0f}k"
        table.add_row(preset.name, f"{parameters(network) / 1e9:.3g}", *map(_cell, found), cached)
    return table


def _cell(fit: Fit | None) -> Text:
    if fit is None:
        return Text()
    mark, style = YES if fit.fits else NO
    return Text.assemble(f"{fit.needed / GIB:.2f} ", (mark, style))


def _describe(preset: Preset, console: Console) -> None:
    for line in description(preset):
        console.print(line, highlight=False, markup=False)


def description(preset: Preset) -> Iterator[str]:
    """What is known of a preset, line by line."""
    yield f"{preset.name}: {preset.about}"
    yield f"checkpoint {preset.checkpoint}, licence {preset.licence or 'not stated here'}"
    yield "defaults: " + (
        ", ".join(f"{name} {value}" for name, value in preset.defaults.items()) or "those of any model"
    )
    yield from (f"note: {note}" for note in preset.notes)
    for one in preset.published:
        how = f"{one.accuracy} % at {one.tokens_per_pass} tokens per pass"
        yield f"published: {one.task}, {one.decoding}: {how} ({one.source})"
    yield ""
