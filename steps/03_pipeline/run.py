"""Run the pipeline on this machine: gateway, preprocess, inference and storage, each as a process.

python run.py                    starts all four, until Ctrl-C; trains a model first if there is none
python run.py --wires grpc,nats  uses gRPC to inference, and a message broker, a fifth process, before storage
python run.py --only storage     starts one of them, or several: in another terminal, to start again what has ended
python run.py --wires grpc --typescript   runs inference in TypeScript, which needs Node

Settings are environment variables, and every service gets all of them. PORT and HOST are the gateway's. The others
listen where PREPROCESS_URL, INFERENCE_URL and STORAGE_URL say. Two URLs with a comma between them are two processes. A
URL on another machine is not started here. A URL's scheme is the wire; --wires sets the URLs that are not set.

grpc://127.0.0.1:8012   Inference also listens for HTTP, for /readyz and /metrics, ten ports below: at 8002.
nats://127.0.0.1:4222   The broker listens there and keeps its data in BROKER_DIR (broker/data). Storage fetches from
                        it, and listens for HTTP where STORAGE_HTTP_URL says (http://127.0.0.1:8003).
"""

import argparse
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from addresses import Address, find_addresses, read, read_wires, refuse, require_free_ports, set_defaults
from node import MISSING, find_node, is_installed, npm_ci
from supervisor import COLOURS, IN_COLOUR, Supervisor, catch_signals, say, signals

STEP = Path(__file__).resolve().parent
TYPESCRIPT = STEP / "inference_ts"


def main() -> str | None:
    """Return what sys.exit() takes: None, or the reason why the pipeline does not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = f"start these alone: one or several of {', '.join(COLOURS)}"
    parser.add_argument("--only", nargs="+", action="extend", choices=COLOURS, metavar="SERVICE", help=only)
    parser.add_argument("--wires", type=read_wires, default=[], help="one or several of rest,grpc,nats")
    parser.add_argument("--typescript", action="store_true", help="run inference in TypeScript")
    arguments = parser.parse_args()
    catch_signals()
    if IN_COLOUR and os.name == "nt":
        os.system("")  # switches on colours in older consoles of Windows

    settings = set_defaults(arguments.wires)
    if "broker" in (arguments.only or []) and "broker" not in settings:
        refuse("STORAGE_URL", "a broker needs --wires nats, or a URL like nats://127.0.0.1:4222")
    if arguments.typescript and read("INFERENCE_URL")[0] != "grpc":
        refuse("INFERENCE_URL", "inference in TypeScript needs --wires grpc, or a URL like grpc://127.0.0.1:8012")
    model = os.environ["MODEL_DIR"] = os.environ.get("MODEL_DIR") or str(STEP / "inference" / "model")
    services = [service for service in settings if service in (arguments.only or settings)]
    addresses = [address for service in services for address in find_addresses(service, settings[service])]
    if not addresses:
        return "There is nothing to start: those services are on other machines."
    require_free_ports(addresses)
    commands = [command(address, arguments.typescript) for address in addresses]

    with Supervisor() as supervisor:
        if "inference" in [address.service for address in addresses]:
            train_if_needed(supervisor, Path(model))
            if arguments.typescript:
                install_if_needed(supervisor)
        for address, program in zip(addresses, commands, strict=True):
            if not signals:
                process = supervisor.start(address, program)
                say(f"pid {process.popen.pid}  {'  '.join(address.urls)}", name=process.name)
        supervisor.wait_until_ready()
        if not signals:
            started = ", ".join(dict.fromkeys(address.service for address in addresses))
            say(f"Ready: {started}" if arguments.only else f"The pipeline is ready: {addresses[0].urls[0]}")
        again = "python run.py" + (f" --wires {','.join(arguments.wires)}" if arguments.wires else "")
        again += " --typescript" if arguments.typescript else ""
        while supervisor.processes and not signals:
            time.sleep(0.1)
            for process, how in supervisor.remove_ended():
                alone = process.address if process.name != process.service else None  # one of several processes
                where = f"{alone.setting} set to {alone.urls[0]} and " if alone else ""
                say(f"{how}: start it again with {where}`{again} --only {process.service}`")
        if signals:
            say("Stopping. Press Ctrl-C again to stop at once.")
    return None if signals else "All processes have ended."


def command(address: Address, typescript: bool) -> list[str | Path]:
    """Return the command that runs a service, or the broker. Ends the program if what runs it is not installed."""
    if typescript and address.service == "inference":
        return [find_node() or sys.exit(MISSING + "."), TYPESCRIPT / "app.ts"]
    if "nats" not in address.ports:
        return [sys.executable, STEP / address.service / "app.py"]
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    program = shutil.which("nats-server", path=os.pathsep.join(folders))
    if not program:
        sys.exit("The broker's program, nats-server, is not installed: run `pip install -r requirements.txt`.")
    data = os.environ.get("BROKER_DIR") or STEP / "broker" / "data"
    where = ["-a", address.host, "-p", str(address.ports["nats"])]
    return [program, "-c", STEP / "broker" / "nats.conf", "-sd", data, *where]


def train_if_needed(supervisor: Supervisor, model: Path) -> None:
    if not (model / "manifest.json").exists():
        say(f"There is no model in {model}. Training one takes about fifteen seconds.")
        finish(supervisor, [sys.executable, STEP / "inference" / "train.py"], "training")


def install_if_needed(supervisor: Supervisor) -> None:
    node = find_node()
    if node and not is_installed(TYPESCRIPT):
        say(f"The libraries of {TYPESCRIPT.name} are not installed. Installing them takes about a minute.")
        finish(supervisor, npm_ci(node, TYPESCRIPT), "installation")


def finish(supervisor: Supervisor, command: Sequence[str | Path], what: str) -> None:
    """Run a program to its end, or until a signal. Ends this program if it fails."""
    process = supervisor.start(Address("inference", "inference"), command)
    while not supervisor.remove_ended() and not signals:
        time.sleep(0.05)
    if process.popen.returncode:
        sys.exit(f"The {what} failed: read above why.")


if __name__ == "__main__":
    sys.exit(main())
