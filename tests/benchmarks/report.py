"""What the figures say: tables of medians, and which targets are reached."""

from collections.abc import Iterator
from itertools import product
from math import inf
from statistics import median

from variants import BASE, BATCHING, CONSTANT, FOREST, MODELS, NO_BATCHING, ONNX, PICKLE, SHIPPED, TEXTBOOK


def write(results: dict) -> tuple[str, bool]:
    """Return the report, as Markdown, and whether every target is reached."""
    lines = ["# Speed of steps 01 and 02", "", results["setting"], ""]
    for model in MODELS:
        lines += [f"## Requests of one row, {model} model", "", *speed_table(results, model), ""]
    lines += ["## Batches of 1,024 rows, shipped model", "", *batch_table(results), ""]
    lines += ["## Memory of step 02 under 20,000 requests, shipped model", "", *growth_table(results), ""]
    lines += ["## Targets", ""]
    reached = []
    for what, value, least, most in targets(results):
        reached.append(least <= value <= most)
        wanted = f"at least {least:g}" if most == inf else f"at most {most:g}"
        lines.append(f"- {'reached' if reached[-1] else '**missed**'}: {what}: {value:.2f} ({wanted})")
    return "\n".join(lines) + "\n", all(reached)


def speed_table(results: dict, model: str) -> Iterator[str]:
    yield "| connections | variant | requests/s | p50 ms | p99 ms | times the development server (min–max) | MB |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    numbers = dict.fromkeys(each["connections"] for each in results["speed"])
    for connections, (variant, mb) in product(numbers, results["memory"][model].items()):
        case = model, variant, connections
        rate, p50, p99 = (median(series(results, figure, *case)) for figure in ("rate", "p50_ms", "p99_ms"))
        times = ratios(results, BASE, *case)
        span = f"{median(times):.2f} ({min(times):.2f}–{max(times):.2f})"
        yield f"| {connections} | {variant} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {span} | {mb:.0f} |"


def batch_table(results: dict) -> Iterator[str]:
    yield "| variant | rows/s | rows/s, predict alone | ms | reading JSON | predict | writing JSON | share of predict |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for variant, taken in results["batches"].items():
        ms = {part: median(each[part] for each in taken) for part in taken[0]}
        speed = f"{1024e3 / ms['service']:,.0f} | {1024e3 / ms['predict']:,.0f}"
        parts = " | ".join(f"{ms[part]:.2f}" for part in ("service", "read", "predict", "write"))
        yield f"| {variant} | {speed} | {parts} | {share(taken):.0%} |"


def growth_table(results: dict) -> Iterator[str]:
    yield "| variant | MB after a warm-up | MB after 20,000 requests more | growth |"
    yield "| --- | ---: | ---: | ---: |"
    for variant, (before, after) in results["growth"].items():
        yield f"| {variant} | {before:.1f} | {after:.1f} | {after - before:.1f} |"


def targets(results: dict) -> Iterator[tuple[str, float, float, float]]:
    """What is wanted: the name of a figure, the figure, the least and the most that it may be."""

    def faster(variant, other, connections, least, models=MODELS):
        for model in models:
            ratio = median(ratios(results, other, model, variant, connections))
            yield f"{variant} / {other}, {connections} at a time, {model} model", ratio, least, inf

    yield from faster(PICKLE, BASE, 64, 8, [SHIPPED])
    yield from faster(PICKLE, BASE, 64, 25, [FOREST])
    # Batching may cost nothing where there is nothing to batch; 0.05 is for noise.
    yield from faster(PICKLE, PICKLE + NO_BATCHING, 1, 0.95)
    yield from faster(PICKLE, TEXTBOOK, 1, 0.95)
    yield from faster(ONNX, BASE, 1, 5)
    yield from faster(ONNX, BASE, 64, 10)
    for variant in BATCHING:
        yield from faster(variant, CONSTANT, 64, 0.4, [SHIPPED])
    for variant, taken in results["batches"].items():
        yield f"{variant}, share of predict in a batch of 1,024 rows", share(taken), 0.7, inf
    for model, variant in product(MODELS, BATCHING):
        p99, p50 = (median(series(results, figure, model, variant, 16)) for figure in ("p99_ms", "p50_ms"))
        yield f"{variant}, p99 / p50, 16 at a time, {model} model", p99 / p50, 0, 5
    for variant, (before, after) in results["growth"].items():
        yield f"{variant}, growth in MB over 20,000 requests", after - before, -inf, 20


def series(results: dict, figure: str, model: str, variant: str, connections: int) -> list[float]:
    """A figure of one case in every round, in their order."""
    case = {"model": model, "variant": variant, "connections": connections}
    return [each[figure] for each in results["speed"] if case.items() <= each.items()]


def ratios(results: dict, other: str, model: str, variant: str, connections: int) -> list[float]:
    """How many times the requests/s of `other` a variant answers, in every round."""
    rates = (series(results, "rate", model, name, connections) for name in (variant, other))
    return [one / two for one, two in zip(*rates, strict=True)]


def share(taken: list[dict[str, float]]) -> float:
    """How much of the time of a batch, less what reading and writing JSON takes, the model takes."""
    return median(ms["predict"] / (ms["service"] - ms["read"] - ms["write"]) for ms in taken)
