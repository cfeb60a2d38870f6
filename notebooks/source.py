"""Show the code of the steps in a notebook as it stands in their files: a notebook holds no second copy."""

import inspect
from types import FunctionType

from IPython.display import Markdown


def show(*functions: FunctionType) -> Markdown:
    """The source of some functions, coloured."""
    return Markdown("```python\n" + "\n\n".join(map(inspect.getsource, functions)) + "```")
