"""Which client a URL's scheme asks for. A new transport is a new file and a line here and in addresses.py."""

import grpc_client
import nats_publisher
import rest_client
from addresses import transport_of
from clients import Inference, Preprocess, Storage
from settings import Settings


def make_preprocess(settings: Settings) -> Preprocess:
    return rest_client.Preprocess(settings.preprocess_url, settings.connect_seconds)


def make_inference(settings: Settings) -> Inference:
    if transport_of(settings.inference_url) == "grpc":
        return grpc_client.Inference(settings.inference_url)
    return rest_client.Inference(settings.inference_url, settings.connect_seconds)


def make_storage(settings: Settings) -> Storage:
    if transport_of(settings.storage_url) == "nats":
        return nats_publisher.Storage(
            settings.storage_url, settings.storage_http_url, settings.connect_seconds, settings.max_claim_bytes
        )
    return rest_client.Storage(settings.storage_url, settings.connect_seconds)
