"""The settings of the service, all of them environment variables."""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Annotated

from pydantic import AfterValidator, AnyUrl, BeforeValidator, Field, SecretBytes, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

import transports
from api_key import read_api_key

URL = TypeAdapter(AnyUrl)


def urls(schemes: Mapping[str, type]) -> AfterValidator:
    """Check the URLs of one service: its replicas, separated by commas."""

    def check(value: str) -> str:
        try:
            found = [URL.validate_python(url.strip()) for url in value.split(",")]
        except ValidationError:
            found = []
        if not found or {url.scheme for url in found} - {*schemes} or not all(url.host for url in found):
            raise ValueError(f"needed is {' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}")
        if any((url.username or url.password) and url.scheme != "nats" for url in found):
            raise ValueError("no user and no password, since GET /services shows it")
        if len({schemes[url.scheme] for url in found}) > 1:
            raise ValueError("all URLs of a service must have the same wire")
        schemes[found[0].scheme](value)  # a wire may ask for more, by a ValueError
        return value

    return AfterValidator(check)


class Settings(BaseSettings):
    """HOST, PORT, INFERENCE_URL and so on; README.md says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    workers: int = Field(1, ge=1)
    preprocess_url: Annotated[str, urls(transports.PREPROCESS)] = "http://127.0.0.1:8001"
    inference_url: Annotated[str, urls(transports.INFERENCE)] = "http://127.0.0.1:8002"
    storage_url: Annotated[str, urls(transports.STORAGE)] = "http://127.0.0.1:8003"
    deadline_seconds: float = Field(2, ge=0.1, le=60)  # for all services together
    max_body_bytes: int = Field(1_000_000, ge=1)
    drain_seconds: float = Field(2, ge=0, le=3600)
    # In a file, since an environment is shown to whoever may inspect the process. None: nobody is asked for a key.
    api_key: Annotated[SecretBytes | None, BeforeValidator(read_api_key)] = Field(
        None, validation_alias="api_key_file", validate_default=False
    )


@cache  # when the service leaves, server.py asks again, and the file of the key may be gone
def read_settings() -> Settings:
    """Read the environment, or end the program with a sentence that names the setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name, value = str(first["loc"][0]), first["input"]
        # A password is not for the screen, nor is a key that somebody has taken for its file.
        shown = "" if "@" in str(value) or name == "api_key_file" else f" is {value!r}"
        sys.exit(f"{name.upper()}{shown}: {first['msg'].removeprefix('Value error, ')}")
