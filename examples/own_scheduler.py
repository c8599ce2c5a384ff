"""A scheduler of one's own, used from Python without a package. `python examples/own_scheduler.py`."""

from dataclasses import dataclass
from typing import Any

from unmask import LLM
from unmask.schedulers import Decision, Needs, State, View, option, top_n

QUESTION = "Ann has 5 coins. Ann finds 7 more. Ann loses 3. How many coins does Ann have?"


class LeftToRight:
    """Reveals the leftmost masks."""

    needs = Needs()  # no statistics beside proposals and their confidence

    @dataclass(frozen=True)
    class Options:
        n: int = option(1, "tokens per step", minimum=1)

    def decide(self, view: View, state: State) -> Decision:
        return Decision(top_n(-view.positions.float(), view.eligible, view.options["n"]))


def main() -> None:
    llm, messages = LLM(), [{"role": "user", "content": QUESTION}]

    # An object stands where the name of a scheduler would. With options, it stands in the place of the name.
    choices: list[Any] = ["topk", LeftToRight(), {"name": LeftToRight(), "n": 4}]
    for scheduler in choices:
        (output,) = llm.chat(messages, scheduler=scheduler)
        print(f"{output.diffusion.scheduler}: {output.diffusion.forward_passes} forward passes, {output.text!r}")

    # The same class works by its name, over HTTP and on the command line, once a package has an entry point for it:
    # docs/schedulers.md writes one.


if __name__ == "__main__":
    main()
