"""How benchmarks time things and print tables."""

import time
from collections.abc import Callable


def best_seconds(function: Callable[[], object], *, repeats: int = 20) -> float:
    """The shortest of several calls, after one to warm up: what the machine can do undisturbed."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
