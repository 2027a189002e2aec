"""The Optuna study of a sweep."""

from __future__ import annotations

import optuna

from discovr_ray.sweep.folder import database_url


def load_study(folder: str, name: str, database: str = "") -> optuna.Study:
    """The study of the sweep `name` in `folder`, to be read; `database` as in the sweep's `storage`."""
    return optuna.load_study(study_name=name, storage=database_url(folder, database))
