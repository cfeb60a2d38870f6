"""What is in the images: the service, the libraries that its lock pins, and nothing else."""

import io
import json
import re
import subprocess
import tarfile

import pytest

from changing import copy_steps
from stack import START_SECONDS, Stack
from test_security import BUILT, PYTHON

SECRET = "a-secret-that-was-left-in-the-folder"
LEFT = ["04_docker/.env", "04_docker/api_key", "03_pipeline/broker/.env"]
LEFT += [f"03_pipeline/gateway/{name}" for name in (".env", ".git/config", "__pycache__/app.pyc", "id_rsa")]
LEFT += [f"03_pipeline/{name}" for name in ("gateway/chassis/.env", "inference/.venv/pyvenv.cfg", "storage/results.db")]
LEFT += [f"03_pipeline/{name}" for name in ("inference/model/model.pkl", "preprocess/tests/token")]
SOURCE = "def create_app("  # it is in the images: the search must find it


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The images, built from a copy of the steps. It also holds files that must not get into an image."""
    folder = copy_steps(tmp_path_factory.mktemp("copied out"))
    for path in (folder.parent / name for name in LEFT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"SECRET={SECRET}\n")
    with Stack(folder) as stack:
        stack.compose("build", "--quiet", seconds=START_SECONDS)
        yield stack


@pytest.fixture(scope="module")
def images(stack):
    """The files that each image adds to its base; and for each text, the files in which it was found."""
    of_base = {}
    for service in BUILT:
        base = re.search(r"^ARG \w+=(\S+)", (stack.services / service / "Dockerfile").read_text())[1]
        if not stack.docker("image", "ls", "--quiet", base):  # a build fetches its base, and does not keep the name
            stack.docker("pull", "--quiet", base)
        of_base[service] = stack.inspect(base)["RootFS"]["Layers"]
        layers = stack.inspect(stack.image(service))["RootFS"]["Layers"]
        assert layers[: len(of_base[service])] == of_base[service]
    sought = {"secret": SECRET.encode(), "source": SOURCE.encode()}
    skipped = {digest.removeprefix("sha256:") for layers in of_base.values() for digest in layers}
    blobs, found, manifest = {}, {what: set() for what in sought}, []
    command = ["docker", "save", *(stack.image(service) for service in BUILT)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as save,
        tarfile.open(fileobj=save.stdout, mode="r|") as saved,
    ):
        for blob in saved:
            if not blob.isfile() or blob.name.rpartition("/")[2] in skipped:
                continue
            content = saved.extractfile(blob).read()
            if blob.name == "manifest.json":
                manifest = json.loads(content)
            for name, member, held in members(blob.name, content):
                blobs.setdefault(blob.name, {})[name] = member
                for what, secret in sought.items():
                    if secret in held:
                        found[what].add(name)
    assert save.returncode == 0
    files = {}
    for image in manifest:
        service = image["RepoTags"][0].removeprefix(f"{stack.project}-").partition(":")[0]
        own = image["Layers"][len(of_base[service]) :]
        files[service] = {name: member for layer in own for name, member in blobs.get(layer, {}).items()}
    return files, found


def members(name: str, content: bytes):
    """Yield the name, the entry and the content of each file in a layer, or the blob itself if it is not a layer."""
    try:
        layer = tarfile.open(fileobj=io.BytesIO(content))
    except tarfile.ReadError:
        yield name, None, content
        return
    with layer:
        for member in layer:
            yield member.name, member, layer.extractfile(member).read() if member.isfile() else b""


def test_no_layer_of_an_image_holds_a_secret(images):
    _, found = images
    assert found["source"] >= {"service/app.py"}
    assert found["secret"] == set()


@pytest.mark.parametrize("service", PYTHON)
def test_an_image_holds_the_service_and_what_its_lock_pins(stack, images, service):
    files = {name: member for name, member in images[0][service].items() if not member.isdir()}
    model = ["model/manifest.json", "model/model.onnx"] if service == "inference" else []
    code = [
        path for pattern in ("*.py", "chassis/*.py", "static/*") for path in (stack.services / service).glob(pattern)
    ]
    expected = {*model, *(path.relative_to(stack.services / service).as_posix() for path in code)}
    assert {name.removeprefix("service/") for name in files if not name.startswith("venv/")} == expected
    lock = "requirements-onnx.lock" if service == "inference" else "requirements.lock"
    pinned = {*re.findall(r"^([\w.-]+==[\w.]+)", (stack.services / service / lock).read_text(), re.MULTILINE)}
    folders = {match for name in files for match in re.findall(r"site-packages/([^/]+)\.dist-info/METADATA$", name)}
    installed = {"==".join(folder.rsplit("-", 1)).lower().replace("_", "-") for folder in folders}
    assert installed == {pin.lower().replace("_", "-") for pin in pinned}
    unwanted = {"pip", "setuptools", "wheel", "scikit-learn", "scipy", "joblib", "skl2onnx"}
    unwanted |= {"numpy"} if service in ("gateway", "storage") else set()
    assert {name.partition("==")[0] for name in installed} & unwanted == set()


@pytest.mark.parametrize("service", BUILT)
def test_a_service_cannot_change_its_own_files_and_can_read_them(images, service):
    for name, member in images[0][service].items():
        if name.rstrip("/") == "data":  # of the broker and of storage, where a volume is mounted
            continue
        assert (member.uid, member.gid) == (0, 0), name
        assert member.issym() or (member.mode & 0o6022, member.mode & 0o044) == (0, 0o044), name


@pytest.mark.parametrize("service", PYTHON)
def test_an_image_starts_without_a_shell_and_checks_itself_without_a_tool(stack, service):
    config = stack.inspect(stack.image(service))["Config"]
    assert (config["User"], config["Cmd"], config["Entrypoint"]) == ("10001:10001", ["python", "app.py"], None)
    check = config["Healthcheck"]["Test"]
    assert check[:2] == ["CMD", "python"] and "/readyz" in check[-1]
