"""Bodies that are much work for whoever reads them, each as large as it may be, and what takes a body."""

from collections.abc import Callable

Body = Callable[[int], bytes]

PRIME = 2**61 - 1  # Python's integers hash by the remainder of it: the multiples are told apart one by one


def filled(head: str, unit: str, tail: str) -> Body:
    """A body of some size: as many units, with commas between them, as there is room for."""

    def body(size: int) -> bytes:
        units = ",".join([unit] * ((size - len(head) - len(tail)) // (len(unit) + 1)))
        return (head + units + tail).encode()

    return body


def numbered(head: str, unit: Callable[[int], str], tail: str) -> Body:
    """The same of units that differ, and grow: some of the room is left."""

    def body(size: int) -> bytes:
        most = len(unit(size)) + 1
        return (head + ",".join(map(unit, range(1, (size - len(head) - len(tail)) // most))) + tail).encode()

    return body


def nested(head: str, depth: int, tail: str) -> Body:
    def body(size: int) -> bytes:
        levels = min(depth, (size - len(head) - len(tail)) // 2)
        return (head + "[" * levels + "]" * levels + tail).encode()

    return body


def name(i: int) -> str:
    return f'"{i:06}":1'


# Each endpoint gets all of them.
BODIES: dict[str, Body] = {
    "messages of {}": filled('{"messages":[', "{}", "]}"),
    "messages": filled('{"messages":[', '{"role":"user","content":""}', "]}"),
    "parts": filled('{"messages":[{"role":"user","content":[', '{"type":"text","text":""}', "]}]}"),
    "names in a message": numbered('{"messages":[{"role":"user","content":"a",', name, "}]}"),
    "prompts of {}": filled('{"prompt":[', "{}", "]}"),
    "prompts of 1": filled('{"prompt":[', "1", "]}"),
    "prompts of a": filled('{"prompt":[', '"a"', "]}"),
    "prompts of [1]": filled('{"prompt":[', "[1]", "]}"),
    "input_ids of texts": filled('{"input_ids":[', '""', "]}"),
    "input_ids": filled('{"input_ids":[', "1", "]}"),
    "input_ids that are long": filled('{"input_ids":[', "9" * 4000, "]}"),
    "tokens": filled('{"tokens":[', "1", "]}"),
    "canvas": filled('{"canvas":[', "null", "]}"),
    "canvas of masks": filled('{"canvas":"a', "[MASK:0]", '"}'),
    "mask_marker": filled('{"canvas":"a","mask_marker":"', "(", '"}'),
    "stop": filled('{"prompt":"a","stop":[', '""', "]}"),
    "names": numbered('{"prompt":"a","completion":"a",', name, "}"),
    "names of nothing": filled("{", '"":0', "}"),
    "names in the scheduler": numbered('{"prompt":"a","scheduler":{"name":"topk",', name, "}}"),
    "an option": filled('{"prompt":"a","scheduler":{"name":"topk","n":[', "1", "]}}"),
    "a field that is not supported": filled('{"prompt":"a","best_of":[', "1", "]}"),
    "patterns of [0]": filled('{"completion":"a","patterns":[', "[0]", "]}"),
    "patterns of {}": filled('{"completion":"a","patterns":[', "{}", "]}"),
    "a pattern": filled('{"completion":"a","patterns":[[', "0", "]]}"),
    "a pattern of integers that collide": numbered('{"completion":"a","patterns":[[', lambda i: str(i * PRIME), "]]}"),
    "a long name": lambda size: b'{"prompt":"a","%s":1}' % (b"x" * (size - 20)),
    "a long name in a message": lambda size: b'{"messages":[{"%s":1}]}' % (b"x" * (size - 25)),
    "a long text": lambda size: b'{"prompt":"%s"}' % (b"x" * (size - 20)),
    "a text of escapes": lambda size: b'{"prompt":"%s"}' % (b"\\\\" * (size // 2 - 10)),
    "quotes": lambda size: b'"' * size,
    "deep": nested('{"prompt":', 10**6, "}"),
    "objects in each other": lambda size: b'{"a":' * (size // 5),
    "half of it": lambda size: b'{"prompt":[' + b"1," * (size // 2 - 10),
}
