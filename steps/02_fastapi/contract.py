"""What the model takes and gives. Another model is another contract.py and another train.py, nothing else."""

NAME = "digits"
# names, or how many
FEATURES: list[str] | int = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
LOW: float | None = 0  # None: no bound
HIGH: float | None = 16
CLASSES: list[int] | list[str] | None = list(range(10))  # None: the model is a regressor
# fmt: off
EXAMPLE: list[float] = [  # a row of features: a 7
    0, 0,  7,  8, 13, 16, 15, 1,
    0, 0,  7,  7,  4, 11, 12, 0,
    0, 0,  0,  0,  8, 13,  1, 0,
    0, 4,  8,  8, 15, 15,  6, 0,
    0, 2, 11, 15, 15,  4,  0, 0,
    0, 0,  0, 16,  5,  0,  0, 0,
    0, 0,  9, 15,  1,  0,  0, 0,
    0, 0, 13,  5,  0,  0,  0, 0,
]
# fmt: on
