"""Show the pages of a service in a notebook, in a browser on any machine.

With JupyterHub, Binder or Codespaces, the browser is not on the machine where the notebook runs, and 127.0.0.1 is not
that machine. The browser reaches JupyterLab alone, so JupyterLab passes the requests on.
"""

from typing import Protocol

from IPython.display import HTML

from lab.launch import proxy_path


class Running(Protocol):
    """Whatever listens on a port of this machine: a Service, Containers."""

    url: str
    port: int


def show(service: Running, path: str = "/") -> HTML:
    """Show a page of the service, with a link to it. It is there while this notebook runs."""
    here = service.url + path
    address = proxy_path(service.port) + path if proxy_path(service.port) else here
    return HTML(
        f'<p><a href="{address}" target="_blank">Open the page in a tab of its own.</a> '
        f"It is there while this notebook runs, on the same machine also at <code>{here}</code>.</p>"
        f'<iframe src="{address}" width="100%" height="700" style="border: 0"></iframe>'
    )
