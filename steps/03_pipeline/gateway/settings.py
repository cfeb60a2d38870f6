"""The settings of the service, all of them environment variables."""

import sys
from functools import cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretBytes, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from addresses import INFERENCE_SCHEMES, PREPROCESS_SCHEMES, STORAGE_SCHEMES, check_urls
from api_key import read_api_key
from chassis.server import check_root_path


def urls(schemes: tuple[str, ...]) -> AfterValidator:
    """Check the URLs of one service: its replicas, separated by commas."""
    return AfterValidator(lambda value: check_urls(value, schemes))


class Settings(BaseSettings):
    """HOST, PORT, INFERENCE_URL and so on; the README of the pipeline says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    workers: int = Field(1, ge=1)
    root_path: Annotated[str, AfterValidator(check_root_path)] = ""  # where a proxy in front serves this, as /digits
    preprocess_url: Annotated[str, urls(PREPROCESS_SCHEMES)] = "http://127.0.0.1:8001"
    inference_url: Annotated[str, urls(INFERENCE_SCHEMES)] = "http://127.0.0.1:8002"
    storage_url: Annotated[str, urls(STORAGE_SCHEMES)] = "http://127.0.0.1:8003"
    # With nats:// in STORAGE_URL, results go through the broker. Lists, summary and health are still asked for here.
    storage_http_url: Annotated[str, urls(PREPROCESS_SCHEMES)] = "http://127.0.0.1:8003"
    max_claim_bytes: int = Field(256_000_000, ge=1)  # of the broker's disk, for the Idempotency-Keys of a day
    connect_seconds: float = Field(0.1, gt=0, le=60)  # over HTTP; on one machine or in one network, 0.1 s is long
    deadline_seconds: float = Field(2, ge=0.1, le=60)  # for all services together
    max_body_bytes: int = Field(1_000_000, ge=1)
    drain_seconds: float = Field(2, ge=0, le=3600)
    keep_alive_seconds: float = Field(75, gt=0, le=3600)  # of an idle connection; longer than a proxy keeps it
    # In a file, since anyone who may inspect the process sees its environment. None: no key is asked for.
    api_key: Annotated[SecretBytes | None, BeforeValidator(read_api_key)] = Field(
        None, validation_alias="api_key_file", validate_default=False
    )


@cache  # each call would read the file of the key again, and that may be gone by then
def read_settings() -> Settings:
    """Read the environment, or end the program with a sentence that names the setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name, value = str(first["loc"][0]), first["input"]
        # Never show a password, nor a key that was given in place of the path of its file.
        shown = "" if "@" in str(value) or name == "api_key_file" else f" is {value!r}"
        sentence = first["msg"].removeprefix("Value error, ").replace("Input", "input", 1)
        sys.exit(f"{name.upper()}{shown}: {sentence}")
