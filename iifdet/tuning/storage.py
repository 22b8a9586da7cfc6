"""Where a study lives: a journal file, a database, or a gRPC proxy in front of either."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from iifdet.errors import InputError
from iifdet.tuning.locking import OwnedLock

#: Seconds to wait for a gRPC proxy or a database to answer.
PATIENCE = 10
NEXT = "give a journal file, an RDB URL such as sqlite:///study.db, or grpc://host:port"


def open_storage(where: str | None, default: Path) -> BaseStorage:
    """Open a storage, and make sure that it answers.

    Args:
        where: path of a journal file, URL of a database as SQLAlchemy writes them, or ``grpc://host:port``.
        default: the journal file that None means.

    Raises:
        InputError: unreachable, or a package for it is missing.
    """
    scheme = urlsplit(where or "").scheme
    kind = _open_grpc if scheme == "grpc" else _open_database if "://" in (where or "") else _open_journal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = kind(where or str(default))
            storage.get_all_studies()
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"storage: expected the packages for {where}, got none ({error.name or error}); pip install iifdet[tune], "
            "or your database's driver"
        ) from error
    except Exception as error:  # SQLAlchemy, its drivers, grpc and json have no error in common
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"storage: expected one that answers, got {where or default} ({reason}); {NEXT}") from error
    return storage


def describe_storage(where: str | None, default: Path) -> str:
    """What optuna-dashboard takes; without the password."""
    if where is None or "://" not in where:
        return str(where or default)
    parts = urlsplit(where)
    return where.replace(f":{parts.password}@", ":***@") if parts.password else where


def _open_journal(path: str) -> BaseStorage:
    folder = Path(path).absolute().parent
    if not folder.is_dir() or Path(path).is_dir():
        raise InputError(f"storage: expected a file in an existing folder, got {path}; make the folder, or {NEXT}")
    lock: Any = OwnedLock(path) if os.name == "posix" else JournalFileOpenLock(path)
    return JournalStorage(JournalFileBackend(path, lock_obj=lock))


def _open_database(url: str) -> BaseStorage:
    connect = {"timeout": 60} if url.startswith("sqlite") else {}
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": connect}
    return RDBStorage(url, engine_kwargs=options)


def _open_grpc(url: str) -> BaseStorage:
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise InputError(f"storage: expected grpc://host:port, got {url}; {NEXT}")
    proxy = GrpcStorageProxy(host=parts.hostname, port=parts.port)
    proxy.wait_server_ready(PATIENCE)
    return proxy
