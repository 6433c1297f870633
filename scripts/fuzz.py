"""Fuzzes every reader of files from outside: text formats with coverage as a guide (atheris), binary ones by mutation.

    python scripts/fuzz.py --seconds 60 --out docs/fuzzing.md

Each reader has a process of its own. A reader may return or raise its own documented error in one line; anything else
(another exception, more than 10 s, more than 512 MB beyond the start) is a finding: its file is kept in
``.cache/fuzzing/READER/`` and the exit code is 1. Without atheris (pip install atheris; Linux, macOS) text formats are
mutated as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

FINDINGS = PROJECT / ".cache" / "fuzzing"
SLOW_S = 10
GROWTH_MB = 512


def main() -> int:
    arguments = _arguments()
    if arguments.reader:
        fuzz = _with_coverage if arguments.how == "coverage" else _with_mutations
        print(json.dumps(fuzz(arguments.reader, arguments.seconds, arguments.seed)))
        return 0
    from bench.fuzzing.readers import TEXT, readers

    guided = {reader.name for reader in TEXT} if importlib.util.find_spec("atheris") else set()
    rows = []
    for name in arguments.only.split(",") if arguments.only else list(readers()):
        how = "coverage" if name in guided else "mutation"
        rows.append(_in_a_process(name, how, arguments.seconds, arguments.seed))
        print(_line(rows[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(report(rows))
    return 1 if any(row["findings"] for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--only", default="", help="a,b: these readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file of the figures")
    parser.add_argument("--reader", default="", help=argparse.SUPPRESS)
    parser.add_argument("--how", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _with_mutations(name: str, seconds: int, seed: int) -> dict[str, Any]:
    from bench.fuzzing.mutations import hostile
    from bench.fuzzing.readers import readers

    reader, rng = readers()[name], random.Random(seed)
    seeds = reader.seeds()
    runs, accepted, findings = 0, 0, 0
    signal.signal(signal.SIGPROF, _too_slow)  # of the processor's time: other programs may be busy
    with tempfile.TemporaryDirectory() as folder:
        assert all(reader.accepts(content, Path(folder)) for content in seeds[:1])
        before, end = _peak_mb(), time.monotonic() + seconds
        while time.monotonic() < end:
            content = hostile(name, seeds, rng)
            runs += 1
            try:
                signal.setitimer(signal.ITIMER_PROF, SLOW_S)
                accepted += reader.accepts(content, Path(folder))
                if _peak_mb() > before + GROWTH_MB:
                    raise AssertionError(f"{name}: {_peak_mb() - before:.0f} MB for {len(content)} bytes")
            except BaseException:
                findings += 1
                before = _peak_mb()
                _keep(name, content, findings)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    return {"runs": runs, "accepted": accepted, "findings": findings}


def _with_coverage(name: str, seconds: int, seed: int) -> dict[str, Any]:
    """Does not return: libFuzzer ends the process, and ``_in_a_process`` reads the figures from its last line."""
    import atheris

    with atheris.instrument_imports(include=["datasets", "bench.store", "bench.profile", "json", "tomllib"]):
        from bench.fuzzing.readers import readers
    reader = readers()[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    corpus, found = folder / "corpus", FINDINGS / name
    corpus.mkdir()
    found.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(reader.seeds()):
        (corpus / str(number)).write_bytes(content)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={SLOW_S}", "-max_len=8192"]
    options += [
        f"-rss_limit_mb={_peak_mb() + GROWTH_MB:.0f}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: reader.accepts(data, folder) and None)
    atheris.Fuzz()
    return {}


def _in_a_process(name: str, how: str, seconds: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--reader", name, "--how", how]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, errors="replace")
    row = {"reader": name, "how": how, "seconds": time.monotonic() - started, "accepted": None}
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if how == "mutation" and done.returncode == 0:
        row |= json.loads(done.stdout.splitlines()[-1])
    else:
        row |= {"runs": int(executed[1]) if executed else 0, "findings": int(done.returncode != 0)}
    if row["findings"]:
        print(done.stderr[-3000:], file=sys.stderr)
    return row


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"not finished after {SLOW_S} s")


def _keep(name: str, content: bytes, number: int) -> None:
    FINDINGS.joinpath(name).mkdir(parents=True, exist_ok=True)
    FINDINGS.joinpath(name, f"finding-{number}").write_bytes(content)
    if number <= 5:
        traceback.print_exc(limit=-3)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _line(row: dict[str, Any]) -> str:
    return f"{row['reader']}: {row['runs']} runs in {row['seconds']:.0f} s ({row['how']}), {row['findings']} findings"


INTRODUCTION = """# Fuzzing

Every reader of files from outside is given hostile files (`scripts/fuzz.py`): text formats grown by coverage (atheris),
binary formats by changed bytes and by files whose every field was chosen by an enemy (`bench/fuzzing/mutations.py`). A
reader may return, or raise its own documented error in one line. Another exception, more than 10 s of processor time or
more than 512 MB beyond the start is a finding. What was found and mended is in `tests/test_fuzzing.py` (`FOUND`).

The figures are those of the last kept run, on a machine that was busy with other work, so their number is no speed:
`"""


def report(rows: list[dict[str, Any]]) -> str:
    """``docs/fuzzing.md``: the figures as a table."""
    lines = [
        "| Reader | Guided by | Files read | of them accepted | Seconds, start included | Findings |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        accepted = "" if row["accepted"] is None else f"{row['accepted']:,}"
        cells = [row["reader"], row["how"], f"{row['runs']:,}", accepted, f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join([*cells, str(row["findings"])]) + " |")
    total = [sum(row[name] for row in rows) for name in ("runs", "seconds", "findings")]
    lines += ["", f"{total[0]:,} files in {total[1]:.0f} s, {total[2]} findings."]
    return f"{INTRODUCTION}python {' '.join(sys.argv)}`\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
