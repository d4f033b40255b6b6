"""Which files ``rt4ksr upscale`` reads, where each result goes, and what is there already."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rt4ksr_client.cli.console import printable
from rt4ksr_client.cli.folders import FolderScan
from rt4ksr_client.cli.results import FileStamp, ResultFolder, fold
from rt4ksr_client.cli.targets import (
    Identity,
    candidate_names,
    default_target,
    identity_of,
    is_folder,
    kind_of,
    own_name,
)
from rt4ksr_client.errors import PictureError, Rt4ksrError

__all__ = ["Failure", "Job", "Naming", "Plan", "plan_jobs"]


@dataclass(frozen=True)
class Job:
    """One picture file to upscale.

    Args:
        source: the file to read.
        target: the file to write.
        replaces: the file at ``target``, which may be replaced as long as it is this one.
        overwrite: whether any file at ``target`` may be replaced.
        results: the folder of ``target``, if it keeps a list of its results.

    """

    source: Path
    target: Path
    replaces: FileStamp | None = None
    overwrite: bool = False
    results: ResultFolder | None = None

    def may_replace(self) -> bool:
        """Whether a file at ``target`` may be replaced.

        Raises:
            PictureError: it was changed since the job was planned.

        """
        with suppress(FileNotFoundError):
            if self.replaces not in (None, FileStamp.of(self.target)):
                raise PictureError(f"{printable(self.target)}: was changed during this run: kept")
        return self.overwrite or self.replaces is not None


class Failure(NamedTuple):
    """A picture that was not upscaled."""

    source: Path
    error: Rt4ksrError


@dataclass(frozen=True)
class Naming:
    """What the names of results depend on, and what makes them results of the same command.

    Args:
        label: what a result is, e.g. ``x2``; part of the names beside the sources.
        extension: of results, with its dot.
        options: the options that change a result, without those left at their defaults.

    """

    label: str
    extension: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Plan:
    """What to do; ``skipped`` counts, by reason, files that were not meant to be upscaled."""

    jobs: list[Job] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    done_before: int = 0

    def fail(self, source: Path, reason: str) -> None:
        """Add a picture that cannot be upscaled."""
        self.failures.append(Failure(source, PictureError(reason)))


class Place(NamedTuple):
    """A picture, and the folder its result goes to."""

    source: Path
    folder: Path
    results: ResultFolder | None


def plan_jobs(
    sources: Iterable[Path], output: Path | None, naming: Naming, *, overwrite: bool
) -> Plan:
    """Plan a run over several pictures: files, and everything below folders.

    No target is a source, and no two are the same, not even where a file system ignores the case of
    names. A result keeps the name it had in earlier runs. A file that is there already is replaced
    if the list of its folder (see :class:`ResultFolder`) says that it is a result of this source,
    and unchanged; or with ``overwrite``.

    Args:
        sources: files and folders. A file is upscaled once, however often it is given.
        output: the folder for results. Default: beside each source.
        naming: how results are called.
        overwrite: upscale pictures whose results are up to date, and replace other files, too.

    Raises:
        PictureError: ``output`` is one of the sources.

    """
    plan = Plan()
    unique = list({os.path.abspath(source): source for source in sources}.values())  # noqa: PTH100
    places = _find_places(unique, output, naming, plan)
    known = {identity_of(place.source) for place in places}
    for place, target in zip(places, allot_targets(places, naming), strict=True):
        try:
            job = _plan_job(place, target, naming, known, overwrite)
        except PictureError as exc:
            plan.failures.append(Failure(place.source, exc))
        else:
            if job is None:
                plan.done_before += 1
            else:
                plan.jobs.append(job)
    return plan


def _find_places(
    sources: Sequence[Path], output: Path | None, naming: Naming, plan: Plan
) -> list[Place]:
    """Return all pictures; add to ``plan`` what cannot be upscaled, and what is skipped."""
    results_in = functools.cache(ResultFolder)
    folders: dict[Path, Path] = {}
    for source in sources:
        if is_folder(source):
            if output is None:
                folders[source] = default_target(source, naming.label, naming.extension)
            else:
                folders[source] = output if len(sources) == 1 else output / own_name(source)
    outputs = set(map(identity_of, [*folders.values(), *([output] if output else [])])) - {None}
    places: list[Place] = []
    for source in sources:
        if source in folders:
            if identity_of(source) in outputs:
                message = f"{printable(source)}: results go to this folder itself"
                if output is not None:
                    raise PictureError(f"{message}: give another one with -o")
                plan.fail(source, f"{message}: give it alone")
                continue
            scan = FolderScan(source, outputs)
            plan.skipped.update(scan.skipped)
            for path, message in scan.failures:
                plan.fail(path, message)
            for picture in scan.pictures:
                folder = folders[source] / picture.parent.relative_to(source)
                places.append(Place(picture, folder, results_in(folder)))
        elif (reason := _reason_against(source)) is not None:
            plan.fail(source, reason)
        elif output is None:
            places.append(Place(source, source.parent, None))
        else:
            places.append(Place(source, output, results_in(output)))
    return places


def _reason_against(source: Path) -> str | None:
    try:
        kind = kind_of(source.stat().st_mode)
    except OSError:
        return f"{printable(source)}: there is no such file"
    return None if kind is None else f"{printable(source)}: a {kind}: give it alone, with -o"


def allot_targets(places: Sequence[Place], naming: Naming) -> list[Path]:
    """Return where the result of each picture goes.

    A name of an earlier run first, then names such as ``a.png``. Where several pictures would have
    the same, ``a.jpg.png``, then ``a-2.jpg.png``.
    """
    targets: dict[int, Path] = {}
    taken: set[str] = set()

    real = functools.cache(os.path.realpath)

    def key(folder: Path, name: str) -> str:
        return fold(Path(real(folder), name))

    def take(index: int, name: str) -> bool:
        wanted = key(places[index].folder, name)
        if wanted in taken:
            return False
        taken.add(wanted)
        targets[index] = places[index].folder / name
        return True

    def candidates(place: Place) -> Iterable[str]:
        ending = f"_{naming.label}" if place.results is None else ""
        for name in candidate_names(place.source, ending + naming.extension):
            if place.results is None or place.results.is_free(name):
                yield name

    first = [next(iter(candidates(place))) for place in places]
    wanted = Counter(map(key, (place.folder for place in places), first))
    for index, place in enumerate(places):
        entry = place.results and place.results.entry_for(place.source, naming.extension)
        if entry:
            take(index, entry.name)
    for index, place in enumerate(places):
        if index not in targets and wanted[key(place.folder, first[index])] == 1:
            take(index, first[index])
    for index, place in enumerate(places):
        if index not in targets:
            names = (name for name in candidates(place) if name != first[index])
            next(name for name in names if take(index, name))
    return [targets[index] for index in range(len(places))]


def _plan_job(
    place: Place,
    target: Path,
    naming: Naming,
    sources: Collection[Identity | None],
    overwrite: bool,
) -> Job | None:
    """Return what to do; None if the result is up to date.

    Raises:
        PictureError: what is at ``target`` may not be replaced.

    """
    job = Job(place.source, target, overwrite=overwrite, results=place.results)
    name = printable(target)
    try:
        found = target.stat()
    except OSError:
        return job
    if (found.st_dev, found.st_ino) in sources:
        raise PictureError(f"{name}: this is a source itself: give another folder with -o")
    if kind := kind_of(found.st_mode):
        raise PictureError(f"{name}: a {kind} has this name: give another folder with -o")
    if overwrite:
        return job
    entry = place.results and place.results.entry_for(place.source, naming.extension)
    if not entry or fold(entry.name) != fold(target.name):
        known = ", and is no known result of this picture" if place.results else ""
        raise PictureError(f"{name}: the file exists{known}: --overwrite replaces it")
    stamp = FileStamp(found.st_size, found.st_mtime_ns)
    if entry.source_stamp == FileStamp.of(place.source):
        if entry.options == naming.options:
            return None
        raise PictureError(f"{name}: was made with other options: --overwrite replaces it")
    if not entry.is_unchanged(stamp):
        raise PictureError(
            f"{name}: was changed after rt4ksr wrote it, and so was its source: --overwrite "
            "replaces it"
        )
    return dataclasses.replace(job, replaces=stamp)
