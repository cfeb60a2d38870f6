"""The settings of the service, all of them environment variables."""

import sys
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from broker import read_urls


class Settings(BaseSettings):
    """HOST, PORT, WORKERS and so on; README.md says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(8003, ge=0, le=65_535)
    workers: int = Field(1, ge=1)
    database_url: str = f"sqlite:///{Path(__file__).parent.as_posix()}/results.db"
    nats_url: str = ""  # of a broker, or of several with commas between them; results come over REST alone if not
    max_queue_bytes: int = Field(500_000_000, ge=1)  # of messages that wait in the broker
    max_write_bytes: int = Field(4_000_000, ge=1)  # in a request
    max_write_queue: int = Field(4096, ge=1)  # results that wait for a commit
    drain_seconds: float = Field(2, ge=0, le=3600)

    @field_validator("database_url")
    @classmethod
    def names_a_database(cls, url: str) -> str:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            parsed = make_url("neither://")
        # SQLite in memory would be another database for each thread.
        in_file = parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:")
        if not in_file and parsed.drivername != "postgresql+psycopg":
            raise ValueError("sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE is needed")
        return url

    @field_validator("nats_url")
    @classmethod
    def names_a_broker(cls, urls: str) -> str:
        try:
            if urls:
                read_urls(urls)
        except ValueError:
            wanted = "nats://HOST:PORT or nats://USER:PASSWORD@HOST:PORT is needed, with %23 for a # in these"
            raise ValueError(wanted) from None
        return urls


def read_settings() -> Settings:
    """Read the environment, or end the program with a sentence that names the setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = "" if name.endswith("_url") else f" is {first['input']!r}"  # a password is not for the screen
        sys.exit(f"{name.upper()}{shown}: {first['msg'].removeprefix('Value error, ').lower()}")
