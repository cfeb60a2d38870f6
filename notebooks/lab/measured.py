"""Print a measured number beside its bound: `v1: ≈63 % right (fewer than 80 %: yes)`.

The sign ≈ marks the number as measured. Tests of a notebook compare the rest of the line strictly: see measured.cfg.
"""


def holds(bound: bool, otherwise: str = "something else may keep this machine busy: run the cell again") -> str:
    """Say whether a bound holds, and if not, what that means."""
    return "yes" if bound else f"no: {otherwise}"
