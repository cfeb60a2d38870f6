"""A bad day: steady load while services are killed, drawn as it happens."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.axes import Axes
from sklearn.datasets import load_digits

from lab.launch import Service
from lab.outages import Answer, Load, kill

COLOURS = {"storage": "tab:green", "broker": "tab:red", "gateway": "black"}


def bad_day(
    services: dict[str, Service], times: dict[str, int], seconds: float, rate: float, name: str, database: Path
) -> tuple[list[Answer], dict[str, int]]:
    """Kill services at random moments under a load of `rate` requests a second, and draw what happens.

    `times`, `seconds` and `name` are those of kill() and Load.
    Return the answers, and how often each service was killed.
    """
    figure, axis = plt.subplots(figsize=(10, 3.5), layout="constrained")
    screen, watched, kills = display(figure, display_id=True), [], list[tuple[str, float]]()

    def watch() -> None:
        time.sleep(1)
        watched.append((load.elapsed(), len(load.answers), rows(database)))
        draw(axis, kills, watched)
        screen.update(figure)

    with Load(services["gateway"].url, load_digits().data, rate, name) as load, ThreadPoolExecutor() as pool:
        killing = pool.submit(kill, services, times, seconds, seed=7, done=kills)
        while not killing.done() or load.elapsed() < seconds:
            watch()
        killing.result()
    watch()
    while watched[-1][2] > watched[-2][2]:  # storage still works off what has waited
        watch()
    plt.close(figure)
    return load.answers, {each: sum(killed == each for killed, _ in kills) for each in times}


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM results").fetchone()[0]


def draw(axis: Axes, kills: list[tuple[str, float]], watched: list[tuple[float, int, int]]) -> None:
    axis.clear()
    moments, answered, kept = zip(*watched, strict=True)
    axis.plot(moments, answered, label="answered")
    axis.plot(moments, kept, label="in the table")
    for name, colour in COLOURS.items():
        own = [moment for killed, moment in kills if killed == name]
        for number, moment in enumerate(own):
            axis.axvline(moment, color=colour, linewidth=0.8, label="" if number else f"{name} is killed")
    axis.set_xlabel("seconds")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # beside the lines, not over them
