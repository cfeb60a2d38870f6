"""Which wire a URL's scheme means. A new one is a file over_*.py and a line here."""

import grpc_client
import nats_publisher
import rest_client
from clients import Inference, Preprocess, Storage

PREPROCESS: dict[str, type[Preprocess]] = {"http": rest_client.Preprocess, "https": rest_client.Preprocess}
INFERENCE: dict[str, type[Inference]] = {
    "http": rest_client.Inference,
    "https": rest_client.Inference,
    "grpc": grpc_client.Inference,
}
STORAGE: dict[str, type[Storage]] = {
    "http": rest_client.Storage,
    "https": rest_client.Storage,
    "nats": nats_publisher.Storage,
}


def scheme(urls: str) -> str:
    return urls.strip().partition(":")[0].lower()
