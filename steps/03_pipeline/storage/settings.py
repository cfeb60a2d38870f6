"""The settings of the service, all of them environment variables."""

import sys
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from broker import read_urls


class Settings(BaseSettings):
    """HOST, PORT, WORKERS and so on; the README of the pipeline says what each is for."""

    model_config = SettingsConfigDict(env_ignore_empty=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(8003, ge=0, le=65_535)
    workers: int = Field(1, ge=1)
    database_url: str = ""  # empty: results.db beside this file
    # read from the file: a password in DATABASE_URL is visible to everybody who can see the environment of the process
    database_password: str | None = Field(
        None, validation_alias="database_password_file", validate_default=False, repr=False
    )
    nats_url: str = ""  # of a broker, or of several, separated by commas; empty: results come over REST only
    max_queue_bytes: int = Field(500_000_000, ge=1)  # messages that wait in the broker
    max_write_bytes: int = Field(4_000_000, ge=1)  # in a request
    max_write_queue: int = Field(4096, ge=1)  # results that wait for a commit
    drain_seconds: float = Field(2, ge=0, le=3600)
    keep_alive_seconds: float = Field(75, gt=0, le=3600)  # of an idle connection; longer than a proxy keeps it

    @field_validator("database_url")
    @classmethod
    def names_a_database(cls, url: str) -> str:
        if not url:
            return url
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            parsed = make_url("neither://")
        if parsed.drivername == "sqlite" and "?" in url:
            raise ValueError("what follows a ? is not part of the path: give the file a path without one")
        # In memory, SQLite would give each thread its own database.
        in_file = parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:")
        if not in_file and parsed.drivername != "postgresql+psycopg":
            raise ValueError("sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE is needed")
        return url

    @field_validator("database_password", mode="before")
    @classmethod
    def is_in_a_file(cls, path: str, others: ValidationInfo) -> str:
        url = make_url(others.data.get("database_url") or "sqlite://")
        if url.drivername == "sqlite" or url.password:
            raise ValueError("it is for a DATABASE_URL of PostgreSQL that has no password itself")
        try:
            password = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise ValueError(f"the file with the password cannot be read ({why})") from None
        if not password:
            raise ValueError("the file with the password is empty")
        return password

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

    @property
    def database(self) -> URL:
        """DATABASE_URL, with the password from the file if there is one. Printed, it shows no password."""
        if not self.database_url:  # as text, a ? in the path would begin options
            return URL.create("sqlite", database=str(Path(__file__).with_name("results.db")))
        url = make_url(self.database_url)
        return url.set(password=self.database_password) if self.database_password else url


@cache  # when the service shuts down, server.py asks again, and the file with the password may be gone
def read_settings() -> Settings:
    """Read the environment, or end the program with a sentence that names the setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        # Show no password: neither in a URL, nor one that was given in place of its file.
        shown = "" if name.endswith(("_url", "_file")) else f" is {first['input']!r}"
        sentence = first["msg"].removeprefix("Value error, ").replace("Input", "input", 1)
        sys.exit(f"{name.upper()}{shown}: {sentence}")
