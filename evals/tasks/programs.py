"""What the code tasks share: finding the program in a completion."""

import re

FENCED = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
INSTRUCTION = "Answer with the whole Python function in one block of code."  # our words


def code_of(completion: str) -> str:
    """The first fenced block, even if it was cut off before its end; without one, the whole completion."""
    block = FENCED.search(completion)
    if not block:
        return completion
    return re.sub(f"^{block[1]}", "", block[2], flags=re.MULTILINE)  # a block in a list is indented as its fence is
