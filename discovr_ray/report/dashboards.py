"""Live pages of a sweep, of programs made by others: optuna-dashboard on its study, TensorBoard on its trials' logs."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import fsspec

from discovr_ray.data import storage
from discovr_ray.errors import SweepError
from discovr_ray.sweep.folder import TRIALS_FOLDER, database_url
from discovr_ray.sweep.study import connect, load_study, locate_study

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"  # neither page asks for a password, and optuna-dashboard can delete studies
OPTUNA_PORT = 8080
TENSORBOARD_PORT = 6006


class Links(NamedTuple):
    optuna: str  # page of the study
    tensorboard: str


@contextmanager
def serve_dashboards(folder: str, database: str = "") -> Iterator[Links]:
    """Both pages of the sweep in `folder`, on loopback, in threads of this process; they end with the block.

    A port that is taken is replaced by a free one.

    Args:
        database: URL of the study, where it cannot be that of sweep.yaml.
    Errors:
        SweepError: the folder holds no sweep, its study cannot be read, or optuna-dashboard is not installed.
    """
    uri = storage.absolute(folder)
    place = locate_study(uri, database)
    study = load_study(uri, place.name, place.database)
    with _serve(_optuna_app(database_url(uri, place.database))) as address:
        links = Links(f"{address}/dashboard/studies/{study._study_id}", _launch_tensorboard(uri, place.name))
        yield links


def _optuna_app(url: str) -> Any:
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise SweepError([f"its dashboard needs pip install 'discovr-ray[dashboard]' ({error})"]) from error
    return wsgi(connect(url))


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


@contextmanager
def _serve(app: Any) -> Iterator[str]:
    server = make_server(HOST, free_port(OPTUNA_PORT), app, _ThreadedServer, _QuietHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _launch_tensorboard(uri: str, title: str) -> str:
    """Its thread lasts as long as this process: TensorBoard has no way to end it."""
    from tensorboard import program

    if storage.is_remote(uri):  # it asks fsspec, which by itself lists a folder once, and would never show a new trial
        fsspec.config.conf.setdefault(uri.partition("://")[0], {})["use_listings_cache"] = False

    for name in ("tensorboard", "werkzeug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    tensorboard = program.TensorBoard()
    tensorboard.configure(
        argv=("tensorboard",),
        logdir=storage.join(uri, TRIALS_FOLDER),
        host=HOST,
        port=free_port(TENSORBOARD_PORT),
        window_title=title,
        load_fast="false",  # else it reads with a process of its own, which would have to be ended, too
    )
    return str(tensorboard.launch())


def free_port(wanted: int) -> int:
    """`wanted`, or another one where something listens there already."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on loopback")
