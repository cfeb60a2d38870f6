"""A measure that can be cheated: find the hidden films without learning anything."""

import numpy as np

notebook = "05_make_it_yours"
minutes = 15
hints = [
    "Look for the hidden films in the table: where are they? Not in one column, but in one row for each person.",
    "You know most of that row already: it is in `shown`. So which row of `past` has everything that a row of `shown` "
    "has?",
    "The entries that two rows have in common are `(shown > 0) @ (past > 0).T`, for all pairs at once.",
]


def stub(past, shown):
    """Score each film for each person: an array of the shape of `shown`. The ten highest are recommended."""
    return np.tile((past > 0).sum(axis=0), (len(shown), 1))


def solution(past, shown):
    """The row that has all that somebody has shown is that person's own, with the hidden films in it. Copy it.

    Nothing is learned here, and for somebody who is not in the table it is worth nothing. A measure that praises it
    measures something else: so what is hidden may not be in the table, and neither may anything that came later.
    """
    common = (shown > 0).astype(float) @ (past > 0).T
    return past[common.argmax(axis=1)]


def ask_everybody(past, shown):
    """A fair recommender: films of people who have much in common with you."""
    return (shown > 0).astype(float) @ (past > 0).T @ (past > 0)


def repeat(past, shown):
    return shown


def random_order(past, shown):
    return np.random.default_rng(0).random(shown.shape)


wrong = [
    (ask_everybody, "all the other rows"),
    (repeat, "seen already"),
    (random_order, "chance"),
]

PEOPLE, FILMS, HIDDEN = 200, 150, 5


def tables():
    """(past, shown, hidden): 200 people have rated about 30 of 150 films each, and five of these are hidden."""
    dice = np.random.default_rng(5)
    popular = dice.permutation(np.geomspace(1, 0.1, FILMS))
    past, hidden = np.zeros((PEOPLE, FILMS)), np.zeros((PEOPLE, FILMS), bool)
    for row, mask in zip(past, hidden, strict=True):
        chosen = dice.choice(FILMS, dice.integers(20, 40), replace=False, p=popular / popular.sum())
        row[chosen] = dice.integers(1, 11, len(chosen)) / 2
        mask[chosen[-HIDDEN:]] = True
    return past, np.where(hidden, 0, past), hidden


def found_for(score, past, shown, hidden):
    """The share of people for whom at least one of the hidden films is among the ten."""
    scores = np.asarray(score(past.copy(), shown.copy()), float)
    ten = np.argsort(-np.where(shown > 0, -np.inf, scores), axis=1, kind="stable")[:, :10]
    return np.take_along_axis(hidden, ten, axis=1).any(axis=1).mean()


def check(break_the_measure):
    past, shown, hidden = tables()
    scores = np.asarray(break_the_measure(past.copy(), shown.copy()))
    if scores.shape != shown.shape:
        return f"return a score for each of {PEOPLE} people and {FILMS} films, not an array of shape {scores.shape}."
    if not scores[shown == 0].any():
        return "only films that people have seen already get a score, and those are not recommended."
    share = found_for(break_the_measure, past, shown, hidden)
    popularity = found_for(stub, past, shown, hidden)
    if share >= 0.95:
        return ""
    if share < popularity - 0.05:
        return f"hit@10 is {share:.0%}: that is what chance finds. Popularity has {popularity:.0%}."
    if share < popularity + 0.05:
        return f"hit@10 is {share:.0%}, the same as by popularity. The hidden films are in the table: look for them."
    return f"hit@10 is {share:.0%}: you are near, but the row that you want is outvoted by all the other rows."
