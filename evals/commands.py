"""The commands `unmask eval` and `unmask train-model`."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from unmask.engine.caching import NO_CACHE, choose_cache, require_cache
from unmask.engine.input_state import MASK, choose_input_state, parse_input_state, require_input_state
from unmask.evals.plot import check_plot, draw
from unmask.evals.report import AUP_LEGEND, LEGEND, aup_table, table
from unmask.evals.settings import EvalSettings, TrainModelSettings
from unmask.evals.sweep import FULL, Curve, Point, Sweep, SweepError, read_points, run_cells
from unmask.evals.sweep_file import read_sweep
from unmask.evals.tasks import EMBEDDED, TASKS, find_task, take
from unmask.models.devices import choose_device
from unmask.models.loading import load_configured, load_model
from unmask.models.presets import with_preset
from unmask.schedulers import parse_scheduler_text, scheduler_names


def evaluate(settings: EvalSettings) -> None:
    """Measure every combination, show a table, and write JSON and pictures if asked."""
    check_plot(settings.plot)
    if not settings.sweep:
        settings, chosen = with_preset(settings)
        Console(stderr=True).print(*chosen[:1], end="\n" * bool(chosen), markup=False, highlight=False)
    sweep = _sweep_from_file(settings) if settings.sweep else _sweep_from_flags(settings)
    known = read_points(settings.json_file) if settings.sweep and settings.json_file else []
    for text in settings.cache:
        require_cache(text)
    for text in settings.input_state:
        require_input_state(text)
    for task in sweep.tasks:  # now, not after hours
        take(task, sweep.problems, sweep.seed)
    model = load_configured(settings)
    caches = [choose_cache(text, model.network.architecture) for text in settings.cache]
    how = {name: getattr(settings, name) for name in ("rows", "memory_fraction", "batch_invariant")}
    states = [choose_input_state(text, model) for text in settings.input_state]
    points = run_cells(model, sweep.cells(caches, settings.raw, states), settings.json_file, known, **how)
    panels = [list(panel) for _, panel in groupby(points, _panel)]
    for panel in panels:
        Console().print(table(panel))
    print(LEGEND)
    if settings.sweep:
        for panel in panels:
            Console().print(aup_table(panel))
        print(AUP_LEGEND)
    for file in settings.plot:
        draw(points, file)


def train_model(settings: TrainModelSettings) -> None:
    """Run or resume the recipe, then write the card with the measured table."""
    from unmask.evals.recipe.blueprints import BLUEPRINTS
    from unmask.evals.recipe.card import SCHEDULERS, training_cost, write_card
    from unmask.evals.recipe.train import Recipe, Trainer

    settings.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        settings.steps,
        settings.batch_size,
        settings.learning_rate,
        seed=settings.seed,
        model=settings.model,
        residual=settings.residual,
        start=settings.start,
    )
    device = choose_device(settings.device)
    Trainer(recipe, settings.out, device, settings.compile, settings.workers).run(settings.save_every)
    if settings.problems:
        model = load_model(str(settings.out))
        tasks = [task for name, task in BLUEPRINTS[recipe.model].tasks.items() if name in TASKS]
        sweep = Sweep(tasks, (32, FULL), settings.problems, seed=0, curves=_single(SCHEDULERS))
        states = [parse_input_state("residual" if settings.residual else MASK.name)]
        results = [point.measurement for point in run_cells(model, sweep.cells([NO_CACHE], input_states=states))]
        where = f"in {model.dtype} on {model.device}, with input state {states[0]}"
        how = f"Measured on {settings.problems} held-out problems a cell, {where}."
        write_card(settings.out, recipe, results, training_cost(settings.out), how)


def _sweep_from_flags(settings: EvalSettings) -> Sweep:
    return Sweep(
        [find_task(text) for text in settings.task or EMBEDDED],
        settings.block_length,
        settings.problems,
        settings.seed,
        _single(settings.scheduler or scheduler_names()),
        settings.max_tokens,
    )


def _sweep_from_file(settings: EvalSettings) -> Sweep:
    """The sweep of the file, with what the flags replace."""
    given = settings.model_fields_set
    if "scheduler" in given:
        raise SweepError("--sweep and --scheduler exclude each other; name the schedulers in the sweep's file")
    sweep = read_sweep(settings.sweep or "")
    return Sweep(
        [find_task(text) for text in settings.task] if "task" in given else sweep.tasks,
        settings.block_length if "block_length" in given else sweep.block_lengths,
        settings.problems if "problems" in given else sweep.problems,
        settings.seed if "seed" in given else sweep.seed,
        sweep.curves,
        settings.max_tokens or sweep.max_tokens,
    )


def _panel(point: Point) -> tuple[str, int, str]:
    m = point.measurement
    return m.task, m.block_length, m.cache


def _single(schedulers: Sequence[str]) -> list[Curve]:
    """Schedulers one by one; a picture joins those of one name."""
    specs = map(parse_scheduler_text, schedulers)
    return [Curve(spec.name, [spec]) for spec in specs]
