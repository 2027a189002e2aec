"""The Optuna study of a sweep: where it is kept, whether it is the same sweep's, and the sampler of each trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
import warnings
from typing import Any, NamedTuple

import optuna
import yaml
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import StudyDirection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from discovr_ray.data import storage
from discovr_ray.errors import SweepError
from discovr_ray.randomness import Purpose, hash_words
from discovr_ray.sweep.asha import rungs
from discovr_ray.sweep.folder import DATABASE_FILE, FINGERPRINT, OBJECTIVES, RUNGS, SWEEP_FILE, database_url
from discovr_ray.sweep.spec import Search, Sweep, masked

SECTIONS_THAT_MAY_CHANGE = ("run", "storage", "checkpoint")  # between two starts of a sweep; not run.seed
DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")  # kinds in URLs
WAIT_S = 10  # for a database's answer
TIMEOUT_NAMES = {"sqlite": "timeout"} | dict.fromkeys(("postgresql", "mysql", "mariadb"), "connect_timeout")


def connect(url: str, looks: int = 3) -> optuna.storages.RDBStorage:
    """The database, with Optuna's tables made where they are missing.

    Args:
        looks: at the database, a second apart, while another start makes the tables at the same moment.
    Errors:
        SweepError: no such kind of database, no driver for it, nobody answers, or no right to use it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the book tells what happens
    _refuse_unreadable(url)
    try:
        backend = make_url(url).get_backend_name()
        options = {TIMEOUT_NAMES[backend]: 60 if backend == "sqlite" else WAIT_S} if backend in TIMEOUT_NAMES else {}
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": options, "pool_pre_ping": True})
    except ImportError:
        raise SweepError(
            [
                f"storage = {masked(url)}: no driver for it; postgresql:// needs pip install 'discovr-ray[postgres]', "
                "and mysql+pymysql:// 'discovr-ray[mysql]'"
            ]
        ) from None
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another version of Optuna
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if looks > 1 and re.search("already exists|duplicate", reason, re.IGNORECASE):
            time.sleep(1.0)
            return connect(url, looks - 1)
        raise SweepError([f"storage = {masked(url)}: cannot be used: {reason}"]) from None


def _refuse_unreadable(url: str) -> None:
    """A URL that is taken apart at a wrong place: messages about its parts would show some of the password."""
    try:
        make_url(url)
    except ValueError:  # of the port
        is_readable = False
    except SQLAlchemyError:  # `connect` tells why
        return
    else:
        is_readable = not re.match(r"[^:]*://[^:/]*:[^@?]*@[^?]*@", url)
    if not is_readable:
        raise SweepError(
            [f"storage = {masked(url)}: cannot be taken apart; in a password @ is written %40, : %3A and / %2F"]
        )


def find_study(sweep: Sweep, folder: str, resume: bool) -> optuna.Study | None:
    """The sweep's study if it is there and may be continued. Makes nothing but tables in a database that is named.

    Errors:
        SweepError: see `connect`; a study of this name is there without `resume`, another sweep or another folder's
            made it, or it is gone.
    """
    name, url = sweep.spec.name, database_url(folder, sweep.spec.storage)
    begun = storage.exists(storage.join(folder, SWEEP_FILE))
    can_be_there = bool(sweep.spec.storage) or storage.exists(storage.join(folder, DATABASE_FILE))
    database = connect(url) if can_be_there else None
    if database is None or name not in optuna.get_all_study_names(database):
        if begun and resume:
            raise SweepError([f"name = {name!r}: {folder} holds a sweep, but {masked(url)} has no study of it"])
        return None
    if not resume:
        raise SweepError([f"name = {name!r}: the storage has a study of this name; choose another, or --resume it"])
    study = optuna.load_study(study_name=name, storage=database)
    if sweep.spec.storage and not begun and study.get_trials(deepcopy=False):  # its trials' runs are elsewhere
        raise SweepError(
            [
                f"name = {name!r}: the storage has a study of this name, but {folder} holds no sweep; "
                "give the storage_path that it was begun with, or choose another name"
            ]
        )
    found, wanted = study.user_attrs.get(FINGERPRINT) or {}, fingerprints(sweep)
    if problems := [
        f"{part}: not that of the study {name!r}; another sweep needs another name"
        for part in wanted
        if found.get(part) != wanted[part]
    ]:
        raise SweepError(problems)
    return study


def open_study(sweep: Sweep, folder: str, resume: bool) -> optuna.Study:
    """The sweep's study, made unless it is there.

    Errors:
        SweepError: see `find_study`, or another start has made it meanwhile.
    """
    if study := find_study(sweep, folder, resume):
        return study
    database = connect(database_url(folder, sweep.spec.storage))
    directions = [StudyDirection.MAXIMIZE] * len(sweep.objectives)
    try:
        study = optuna.create_study(study_name=sweep.spec.name, storage=database, directions=directions)
    except DuplicatedStudyError:
        raise SweepError(
            [
                f"name = {sweep.spec.name!r}: another start made a study of this name at the same moment; "
                "choose another name, or --resume that sweep"
            ]
        ) from None
    study.set_user_attr(OBJECTIVES, list(sweep.objectives))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(sweep.objectives))  # what optuna-dashboard calls them
    study.set_user_attr(RUNGS, rungs_of(sweep))
    study.set_user_attr(FINGERPRINT, fingerprints(sweep))
    return study


class StudyPlace(NamedTuple):
    """Where a sweep's study is kept."""

    name: str  # of the sweep and of the study
    database: str  # URL; "": sweep.db in the sweep's folder


def locate_study(folder: str, database: str = "") -> StudyPlace:
    """Where the folder's sweep.yaml says it is.

    Args:
        database: URL that replaces the file's, which has no password in it.
    Errors:
        SweepError: no sweep.yaml there, not one of ours, or a database is missing.
    """
    uri = storage.join(folder, SWEEP_FILE)
    if not storage.exists(uri):
        raise SweepError([f"{folder}: no sweep: it has no {SWEEP_FILE}; give <storage_path>/<name> of jobs/sweep.py"])
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise SweepError([f"{uri}: cannot be read as YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise SweepError([f"{uri}: must hold the fields of a sweep, is a {type(values).__name__}"])
    place = StudyPlace(str(values.get("name")), database or str(values.get("storage") or ""))
    if "***" in place.database:
        raise SweepError([f"{uri}: storage = {place.database}: needs its password; give the URL"])
    if not place.database and not storage.exists(storage.join(folder, DATABASE_FILE)):
        raise SweepError([f"{folder}: has no {DATABASE_FILE}; a study that is kept elsewhere needs its URL"])
    return place


def load_study(folder: str, name: str, database: str = "") -> optuna.Study:
    """The study of the sweep `name` in `folder`, to be read; `database` as in the sweep's `storage`.

    Errors:
        SweepError: see `connect`, or there is no such study.
    """
    try:
        return optuna.load_study(study_name=name, storage=connect(database_url(folder, database)))
    except KeyError:
        raise SweepError([f"{masked(database) or folder}: has no study {name!r}"]) from None


def rungs_of(sweep: Sweep) -> list[int]:
    """The spec's `steps` must be known."""
    return rungs(sweep.spec.asha.first_steps, sweep.spec.asha.reduction, sweep.spec.steps)


def fingerprints(sweep: Sweep) -> dict[str, str]:
    """Part of the sweep -> hash. Parts that would make values of different trials mean different things."""
    config = {
        section: values for section, values in sweep.config.to_dict().items() if section not in SECTIONS_THAT_MAY_CHANGE
    }
    config["run"] = {"seed": sweep.config.run.seed}
    parts: dict[str, Any] = {
        "space": [dataclasses.asdict(dimension) for dimension in sweep.space.dimensions],
        "objective": list(sweep.objectives),
        "steps": rungs_of(sweep),
        "config": config,
    }
    return {
        part: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        for part, value in parts.items()
    }


def make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Of trial `number`: a sweep that was interrupted draws as one that was not, given the same trials before."""
    seed = int(hash_words(search.seed, Purpose.SAMPLER, number)) % 2**32
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=search.startup_trials, multivariate=True, group=True, constant_liar=True
        )
