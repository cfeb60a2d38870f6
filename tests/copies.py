"""What a folder holds as a copy, so that it stands alone. Bring all copies in line: python tests/copies.py"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# original: its copies. Edit originals only.
COPIES = {
    "LICENSE": ["steps/01_flask/LICENSE", "steps/02_fastapi/LICENSE"],
    "steps/01_flask/.gitignore": ["steps/02_fastapi/.gitignore"],
    "steps/01_flask/sample_request.json": ["steps/02_fastapi/sample_request.json"],
    "steps/01_flask/train.py": ["steps/02_fastapi/train.py"],
}


def differing(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> list[tuple[Path, Path]]:
    """Pairs of (original, copy) under `root` whose bytes differ, or whose copy is missing."""
    pairs = [(root / original, root / copy) for original, targets in copies.items() for copy in targets]
    return [(one, two) for one, two in pairs if not two.exists() or one.read_bytes() != two.read_bytes()]


def bring_in_line(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> None:
    for original, copy in differing(root, copies):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, copy)
        print(f"{original.relative_to(root)} -> {copy.relative_to(root)}")


if __name__ == "__main__":
    bring_in_line()
