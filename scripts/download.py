"""Fetch released checkpoints, or CULane's archives, to where the benchmark looks for them.

    python scripts/download.py --list                              what there is
    python scripts/download.py                                     all checkpoints that fit, into weights/
    python scripts/download.py --detector clrnet --variant r18     one of them
    python scripts/download.py --culane DIR                        CULane's archives (40 GB), unpacked into DIR
    python scripts/download.py --culane DIR --only list driver_37_30frame annotations_new
    python scripts/download.py ... --dry-run                       only say what would be fetched

Stopped at any point, the same command goes on where it was. Nothing gets its name before it was verified. Of what
cannot be fetched (Google Drive has quotas) the steps by hand are printed. Exit code 1 if something is missing then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: E402

import lane_models  # noqa: E402
from bench.detectors import ARCHIVES, build  # noqa: E402
from bench.download import DownloadError, Drive, Wanted, fetch  # noqa: E402
from bench.errors import BenchError, one_line  # noqa: E402
from bench.paper import rows  # noqa: E402
from bench.paper.releases import Release, releases  # noqa: E402
from bench.unpack import Limits, room_for, unpack  # noqa: E402
from lane_models.checkpoint import CheckpointError  # noqa: E402

CHECKPOINT_LIMITS = Limits(entries=10_000, size=4 * 2**30)
CULANE_LIMITS = Limits(entries=400_000, size=80 * 2**30)


@dataclass(frozen=True)
class Job:
    """One file to fetch and what to do with it.

    fits: the detector whose checkpoint it is; "" for data. folder: where an archive is unpacked; None for plain files.
    patterns: the members that are wanted of it. note: what it is, for people.
    """

    wanted: Wanted
    note: str
    fits: str = ""
    folder: Path | None = None
    patterns: tuple[str, ...] = ("*",)
    limits: Limits = field(default=CHECKPOINT_LIMITS)

    @property
    def marker(self) -> Path:
        """Says that an archive was unpacked; the archive itself is then deleted."""
        return self.wanted.target.with_name(self.wanted.target.name + ".unpacked")

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.marker.exists() if self.folder is not None else False


def main(arguments: Sequence[str] | None = None, drive: Drive | None = None) -> int:
    """The command line; returns the exit code. drive: replaces Google Drive in tests."""
    given = _parser().parse_args(arguments)
    try:
        if given.culane is None and given.only:
            raise BenchError("--only chooses among CULane's archives; give --culane DIR too")
        if given.list:
            return _list()
        if given.culane is not None:
            jobs = culane_jobs(given.culane, given.only)
        else:
            jobs = checkpoint_jobs(given.out, given.detector, given.variant)
        if given.dry_run:
            return _dry_run(jobs)
        missing = sum(not run(job, drive) for job in jobs)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return _closing(given, len(jobs), missing)


def checkpoint_jobs(folder: Path, detector: str | None, variant: str | None) -> list[Job]:
    """Checkpoints of all detectors, of one, or of one variant; each file once. Raises BenchError for unknown names."""
    if detector is None and variant is not None:
        raise BenchError(f"--variant {variant}: give --detector too")
    if detector is not None and detector not in lane_models.names():
        raise BenchError(f"--detector {detector}: choose one of {', '.join(lane_models.names())}")
    chosen = [r for r in releases() if detector in (None, r.detector) and variant in (None, r.variant)]
    if not chosen:
        known = [r.variant for r in releases() if r.detector == detector]
        if not known:
            raise BenchError(
                f"--detector {detector}: nobody has released a checkpoint of it that is known here"
            )
        raise BenchError(
            f"--variant {variant}: no released checkpoint of {detector}; choose one of {', '.join(known)}"
        )
    jobs = {release.address: _checkpoint_job(folder, release) for release in chosen}
    return list(jobs.values())


def _checkpoint_job(folder: Path, release: Release) -> Job:
    same = [other for other in releases() if other.address == release.address]
    variants = ", ".join(other.variant for other in same)
    note = f"{release.detector} {variants} ({release.dataset})"
    target, patterns = folder / release.save_as, tuple(dict.fromkeys(other.members for other in same))
    if not release.members:
        return Job(Wanted(release.address, target, release.size, release.sha256), note, release.detector)
    archive = folder / ARCHIVES / target.name
    wanted = Wanted(release.address, archive, release.size, release.sha256)
    return Job(wanted, note, release.detector, target.parent, patterns)


def culane_jobs(folder: Path, only: Sequence[str]) -> list[Job]:
    """CULane's own archives: frames, annotations and lists. Raises BenchError for unknown names."""
    archives = {
        row["file_name"].removesuffix(".tar.gz"): row
        for row in rows("checkpoints")
        if row["model"] == "dataset" and row["dataset"] == "CULane" and row["file_name"].endswith(".tar.gz")
    }
    archives.pop("laneseg_label_w16", None)  # for training segmentation alone, and not by CULane's authors
    for name in only:
        if name not in archives:
            raise BenchError(f"--only {name}: choose of {', '.join(archives)}")
    return [
        Job(
            Wanted(row["url_or_drive_id"], folder / ARCHIVES / row["file_name"]),
            f"CULane: {row['variant']}",
            folder=folder,
            limits=CULANE_LIMITS,
        )
        for name, row in archives.items()
        if not only or name in only
    ]


def run(job: Job, drive: Drive | None = None) -> bool:
    """Does one job; on failure says why and what to do by hand. Returns whether it is done."""
    if job.done:
        print(f"there   {job.note}: {job.folder}")
        return True
    try:
        fetched = _fetch(job, drive)
        files = _unpack(job) if job.folder is not None else [job.wanted.target]
    except (BenchError, CheckpointError) as error:
        print(f"MISSING {job.note}: {one_line(error)}", file=sys.stderr)
        print(by_hand(job, isinstance(error, DownloadError) and error.resumable), file=sys.stderr)
        return False
    where = files[0] if len(files) == 1 else f"{len(files)} files in {job.folder}"
    print(f"{'fetched' if fetched else 'there  '} {job.note}: {where}", flush=True)
    return True


def by_hand(job: Job, resumable: bool) -> str:
    """The steps that replace a download."""
    again = "  The same command goes on where it stopped. Or by hand:\n" if resumable else "  By hand:\n"
    then = "it is checked and unpacked" if job.folder is not None else "it is checked"
    return (
        f"{again}  1. open {job.wanted.page} in a browser (signed in to Google, should it ask) and download the file\n"
        f"  2. save it as {job.wanted.target}\n"
        f"  3. run the same command again: {then}"
    )


def _fetch(job: Job, drive: Drive | None) -> bool:
    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(job.wanted.target.name, total=None)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        check = job.folder is None and job.fits
        return fetch(
            job.wanted,
            drive,
            show,
            (lambda path: _check_fits(job.fits, path)) if check else lambda path: None,
        )


def _check_fits(detector: str, path: Path) -> None:
    """Raises BenchError or CheckpointError for weights that are not of this detector."""
    build(detector, None, path)


def _keep_if_fits(detector: str, path: Path) -> None:
    try:
        _check_fits(detector, path)
    except (BenchError, CheckpointError):
        path.rename(path.with_name(path.name + ".refused"))
        raise


def _unpack(job: Job) -> list[Path]:
    assert job.folder is not None
    job.folder.mkdir(parents=True, exist_ok=True)
    archive = job.wanted.target
    room_for(archive, job.folder)
    files = []
    for pattern in job.patterns:
        found = sorted(unpack(archive, job.folder, job.limits, pattern))
        if job.fits and found:  # of several epochs the last is the released one
            for path in found[:-1]:
                path.unlink()
            found = found[-1:]
            _keep_if_fits(job.fits, found[0])
        files += found
    if not files:
        raise BenchError(
            f"{archive}: holds nothing that matches {' or '.join(job.patterns)}; unpack it by hand"
        )
    job.marker.write_text(f"{len(files)} files in {job.folder}; delete this line's file to fetch it again\n")
    archive.unlink()
    return files


def _list() -> int:
    for release in releases():
        size = f"{release.size} bytes" if release.size else "size unknown"
        known = f"{size}, SHA-256 {'known' if release.sha256 else 'unknown'}"
        print(f"{release.detector} {release.variant}, {release.dataset} ({known})\n    {release.address}")
    for job in culane_jobs(Path("DIR"), []):
        print(f"{job.note}\n    {job.wanted.address} {job.wanted.target.name}")
    return 0


def _dry_run(jobs: Sequence[Job]) -> int:
    for job in jobs:
        there = job.done or job.wanted.target.exists()
        print(
            f"{'there  ' if there else 'to fetch'} {job.note}\n    {job.wanted.address}\n    -> {job.wanted.target}"
        )
        if job.folder is not None:
            print(f"    -> unpacked into {job.folder} ({', '.join(job.patterns)})")
    return 0


def _closing(given: argparse.Namespace, jobs: int, missing: int) -> int:
    for line in _next_steps(given, jobs, missing):
        print(line)
    return 1 if missing else 0


def _next_steps(given: argparse.Namespace, jobs: int, missing: int) -> Iterator[str]:
    if missing:
        yield f"{missing} of {jobs} files are missing; see above"
    if missing < jobs:
        if given.culane is not None:
            yield f"next: make bench-culane CULANE={given.culane}"
        else:
            yield f"next: make bench-culane CULANE=DIR WEIGHTS={given.out}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", help="only this detector's checkpoints")
    parser.add_argument("--variant", help="only this variant's checkpoint")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder of checkpoints (weights)")
    parser.add_argument(
        "--culane", type=Path, metavar="DIR", help="fetch CULane into DIR instead of checkpoints"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of CULane only these archives")
    parser.add_argument("--list", action="store_true", help="what can be fetched")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, fetch nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
