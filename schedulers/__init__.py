"""Unmasking schedulers: which masked positions to reveal now. This is the whole public interface for writing one."""

from unmask.schedulers.base import (
    Decision,
    Needs,
    Scheduler,
    State,
    View,
    Window,
    at_least_best,
    counter_uniform,
    in_block,
    top_n,
)
from unmask.schedulers.options import OptionError, json_schema, option
from unmask.schedulers.registry import (
    SchedulerSpec,
    UnknownSchedulerError,
    parse_instance,
    parse_scheduler,
    parse_scheduler_text,
    scheduler_class,
    scheduler_names,
)

__all__ = [
    "Decision",
    "Needs",
    "OptionError",
    "Scheduler",
    "SchedulerSpec",
    "State",
    "UnknownSchedulerError",
    "View",
    "Window",
    "at_least_best",
    "counter_uniform",
    "in_block",
    "json_schema",
    "option",
    "parse_instance",
    "parse_scheduler",
    "parse_scheduler_text",
    "scheduler_class",
    "scheduler_names",
    "top_n",
]
