"""Read the settings of the service from environment variables."""

import sys
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """HOST, PORT, WORKERS and so on; the README of the pipeline says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(8001, ge=0, le=65_535)
    workers: int = Field(1, ge=1)
    preprocess_version: Literal["v1", "v2"] = "v2"
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_pixels: int = Field(16_000_000, ge=1)  # of a picture
    max_pictures: int = Field(64, ge=1)  # waiting for a thread
    threads: int = Field(2, ge=1)
    drain_seconds: float = Field(2, ge=0, le=3600)
    keep_alive_seconds: float = Field(75, gt=0, le=3600)  # of an idle connection; longer than a proxy keeps it


def read_settings() -> Settings:
    """Return the settings. If one is not valid, end the program with a sentence that names it."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        sentence = first["msg"].removeprefix("Value error, ").replace("Input", "input", 1)
        sys.exit(f"{str(first['loc'][0]).upper()} is {first['input']!r}: {sentence}")
