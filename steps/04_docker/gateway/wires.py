"""Which wire a URL's scheme means. A new one is a file over_*.py and a line here."""

import over_grpc
import over_nats
import over_rest
from services import Inference, Preprocess, Storage

PREPROCESS: dict[str, type[Preprocess]] = {"http": over_rest.Preprocess, "https": over_rest.Preprocess}
INFERENCE: dict[str, type[Inference]] = {
    "http": over_rest.Inference,
    "https": over_rest.Inference,
    "grpc": over_grpc.Inference,
}
STORAGE: dict[str, type[Storage]] = {
    "http": over_rest.Storage,
    "https": over_rest.Storage,
    "nats": over_nats.Storage,
}


def scheme(urls: str) -> str:
    return urls.strip().partition(":")[0].lower()
