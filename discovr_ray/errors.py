"""The project's own exceptions. Each message names the field or file, the value and the rule."""

from __future__ import annotations

from collections.abc import Sequence


class DiscovrError(Exception):
    """Base of every error that a user's input, data or storage can cause."""


class ConfigError(DiscovrError):
    """A configuration that cannot run. `problems` lists every violated rule, one line each."""

    place = "configuration"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the {self.place}:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


class ManifestError(DiscovrError):
    """A manifest that is missing, has the wrong columns or values, or holds no usable clip."""


class StorageError(DiscovrError):
    """A path that cannot be read from or written to."""


class MissingFileError(StorageError):
    """No file to be had at this path: not there, no file, or refused to this user. Asking again does not help."""


class ClipError(DiscovrError):
    """One clip that cannot be used: unreadable, changed since ingest, or undecodable. The message is the reason."""


class StreamError(DiscovrError):
    """The stream of clips stopped: decode processes kept dying, nothing arrived, or Ray Data failed."""


class TooManyBadClipsError(DiscovrError):
    """More clips failed than may: `data.max_bad_fraction` of a manifest in a run, a job's `--allow-failed`."""


class NonFiniteError(DiscovrError):
    """Loss or gradient were NaN or infinite too often in a row; the message names the steps and the term."""


class CollapseError(DiscovrError):
    """A sign of collapse has lasted and `health.on_collapse` is stop; the message names the sign and its steps."""


class CrashLoopError(DiscovrError):
    """Worker groups failed again and again from the same checkpoint, or a sweep's trials one after another.

    The message names the step or the trial, and the last cause.
    """


class CheckpointError(DiscovrError):
    """A checkpoint that is incomplete, damaged or does not fit the configuration."""


class FeaturesError(DiscovrError):
    """Features that cannot be used: of another model or preprocessing, not finite, incomplete or damaged."""


class ParityError(DiscovrError):
    """An exported encoder that does not compute what the original computes."""


class EvaluationError(DiscovrError):
    """Labels, splits or settings that no probe can be trusted with; the message names them and the rule."""


class RunExistsError(DiscovrError):
    """A run of this name already exists at the storage path and `run.resume` is off, or it is going on now."""


class SweepError(ConfigError):
    """A sweep that cannot be run: its file, space, storage, name or size."""

    place = "sweep"


class RunTakenError(DiscovrError):
    """Another start of the job has taken the run over from this one, which was found dead though it lives."""
