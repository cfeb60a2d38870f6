"""The settings of the service, all of them environment variables."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.server import check_root_path


class Settings(BaseSettings):
    """HOST, PORT, WORKERS and so on; the README of the pipeline says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True, protected_namespaces=())

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    grpc_port: int | None = Field(None, ge=0, le=65_535)  # not set: no gRPC
    workers: int = Field(1, ge=1)
    root_path: Annotated[str, AfterValidator(check_root_path)] = ""  # where a proxy in front serves this, as /digits
    model_dir: Path = Path(__file__).parent / "model"
    model_format: Literal["pickle", "onnx"] = "pickle"
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_batch: int = Field(64, ge=1)  # rows in a call of predict
    max_queue: int = Field(4096, ge=1)  # rows that wait for one
    drain_seconds: float = Field(2, ge=0, le=3600)
    keep_alive_seconds: float = Field(75, gt=0, le=3600)  # of an idle connection; longer than a proxy keeps it
    max_connection_age_seconds: float = Field(60, gt=0, le=86_400)  # then clients of gRPC look for replicas again


def read_settings() -> Settings:
    """Read the environment, or end the program with a sentence that names the setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        sentence = first["msg"].removeprefix("Value error, ").replace("Input", "input", 1)
        sys.exit(f"{str(first['loc'][0]).upper()} is {first['input']!r}: {sentence}")
