"""From which ratings may a model learn that is measured on some people?"""

import pandas as pd

notebook = "05_make_it_yours"
minutes = 5
hints = [
    "One model serves all these people. It is trained before the first of them comes. When is that?",
    'The times of these people are `ratings.loc[ratings["person"].isin(people), "time"]`. One of these moments is the '
    "limit, for everybody's ratings, and the rating of that very moment is no longer before it.",
]


def stub(ratings, people):
    """Return the ratings of which the model may know: it is measured on `people`."""
    return ratings[~ratings["person"].isin(people)]


def solution(ratings, people):
    """The limit is a moment, not a list of people: what others rate later is not there yet when these people come.

    With it, their own ratings are left out by themselves, since the first of them is at the limit.
    """
    begin = ratings.loc[ratings["person"].isin(people), "time"].min()
    return ratings[ratings["time"] < begin]


def until_the_last_has_left(ratings, people):
    return ratings[ratings["time"] < ratings.loc[ratings["person"].isin(people), "time"].max()]


def until_the_first_has_rated(ratings, people):
    return ratings[ratings["time"] <= ratings.loc[ratings["person"].isin(people), "time"].min()]


def people_who_had_left(ratings, people):
    begin = ratings.loc[ratings["person"].isin(people), "time"].min()
    return ratings[ratings.groupby("person")["time"].transform("max") < begin]


wrong = [
    (until_the_last_has_left, "of Ana herself"),
    (until_the_first_has_rated, "first rating of all"),
    (people_who_had_left, "leave out"),
]

# Not in the order of time, and Eve rates before and after Ana and Ben have come.
RATINGS = pd.DataFrame(
    [
        ("Ben", "Fargo", 4.0, 60),
        ("Eve", "Alien", 5.0, 10),
        ("Ana", "Brazil", 3.5, 50),
        ("Cleo", "Fargo", 2.0, 20),
        ("Eve", "Brazil", 4.5, 70),
        ("Ana", "Alien", 4.0, 40),
        ("Dora", "Alien", 1.0, 55),
        ("Ben", "Alien", 3.0, 80),
    ],
    columns=["person", "film", "stars", "time"],
    index=range(100, 108),
)


def check(may_learn):
    kept = may_learn(RATINGS.copy(), ["Ben", "Ana"])
    if not isinstance(kept, pd.DataFrame) or not {"person", "film", "time"} <= {*kept.columns}:
        return "return rows of the table `ratings`, with its columns."
    found = sorted(kept[["person", "film"]].itertuples(index=False, name=None))
    if ("Ana", "Brazil") in found:
        return "the model learns from ratings of Ana herself, whom it is measured on."
    if ("Ana", "Alien") in found:
        return "Ana comes first, at 40, and the model knows what she does then: the first rating of all is in it."
    if ("Eve", "Brazil") in found or ("Dora", "Alien") in found:
        return "Ana comes at 40, and the model knows what others have rated after that: nobody could have told it then."
    if found != [("Cleo", "Fargo"), ("Eve", "Alien")]:
        return f"Cleo and Eve have rated a film each before anybody came. You leave out {2 - len(found)} of the two."
    if len(may_learn(RATINGS.copy(), ["Dora"])) != 4:
        return "it is right for Ana and Ben. Dora comes at 55: four ratings are from before that."
    return ""
