#!/usr/bin/env python3
"""Turns `go test -json` streams into a results file, compares two of them, and sums one up.

A results file has one JSON object a line, sorted by package and test:
`{"package": "csapi", "test": "TestLogin/parallel", "result": "pass"}`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeGuard

Result = Literal["pass", "fail", "skip"]
RESULTS: tuple[Result, ...] = ("pass", "fail", "skip")


class InputError(Exception):
    """A file is not of the format this program reads."""


@dataclass(frozen=True, order=True)
class Test:
    """One test or subtest of a package; `name` is the path of subtests, divided by slashes."""

    package: str
    name: str

    def parent(self) -> Test | None:
        """The test that this one is a subtest of; nothing for a top-level test."""
        head, slash, _ = self.name.rpartition("/")
        return Test(self.package, head) if slash else None

    def __str__(self) -> str:
        return f"{self.package} {self.name}"


Results = dict[Test, Result]


@dataclass
class Recording:
    """What a stream said."""

    results: Results
    broken_packages: list[str] = field(default_factory=list)
    """Packages that failed with no test to blame: they did not build or did not start."""


def short_package(import_path: str) -> str:
    """The part of a Go package's path that follows its `tests` folder; `tests` for that folder."""
    _, found, below = import_path.rpartition("/tests/")
    if found:
        return below
    return "tests" if import_path.endswith("/tests") else import_path


def is_result(value: object) -> TypeGuard[Result]:
    """Whether a value is the name of a result."""
    return value in RESULTS


def read_events(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """The events of a stream. Other lines are passed over: the go command prints some between."""
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and "Action" in event:
            yield event


def record(lines: Iterable[str]) -> Recording:
    """The last result of every test in one stream, or in several one after the other.

    A test that started and never finished has failed. When part of the suite is run again, its
    results replace the earlier ones; a test with a failed subtest stays failed, although the
    second run, of its other subtests alone, may have passed it.
    """
    results: Results = {}
    failed_packages: set[str] = set()
    for event in read_events(lines):
        package, name, action = event.get("Package"), event.get("Test"), event["Action"]
        if not isinstance(package, str):
            continue
        package = short_package(package)
        if isinstance(name, str):
            if action == "run":
                results[Test(package, name)] = "fail"
            elif is_result(action):
                results[Test(package, name)] = action
        elif action == "fail":
            failed_packages.add(package)
        elif action in ("pass", "skip"):
            failed_packages.discard(package)

    for test in [test for test, result in results.items() if result == "fail"]:
        above = test.parent()
        while above is not None:
            results[above] = "fail"
            above = above.parent()
    explained = {test.package for test, result in results.items() if result == "fail"}
    return Recording(results, sorted(failed_packages - explained))


def write_results(results: Results) -> str:
    """The text of a results file."""
    rows = (
        {"package": test.package, "test": test.name, "result": results[test]}
        for test in sorted(results)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_results(text: str) -> Results:
    """The results in the text of a results file."""
    results: Results = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            test, result = Test(row["package"], row["test"]), row["result"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"line {number} is not a result: {line}") from error
        if not is_result(result):
            raise InputError(f"line {number} has an unknown result: {result}")
        if test in results:
            raise InputError(f"line {number} repeats {test}")
        results[test] = result
    return results


def read_not_applicable(text: str) -> dict[Test, str]:
    """The tests that cannot pass, each with its reason: `package test<TAB>reason` a line."""
    reasons: dict[Test, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        names, _, reason = line.partition("\t")
        package, _, name = names.partition(" ")
        if not name or not reason.strip():
            raise InputError(f"line {number} is not 'package test<TAB>reason': {line}")
        reasons[Test(package, name)] = reason.strip()
    return reasons


def regressions(old: Results, new: Results, not_applicable: Iterable[Test] = ()) -> list[str]:
    """What keeps a run from agreeing with the recorded results, a line each; empty if it agrees."""
    excused = set(not_applicable)
    lost = [
        f"lost: {test} was pass, is {new.get(test, 'missing')}"
        for test in sorted(old)
        if old[test] == "pass" and new.get(test) != "pass"
    ]
    passes = [test for test in sorted(new) if new[test] == "pass"]
    unrecorded = [
        f"unrecorded: {test} is pass, was {old.get(test, 'missing')}"
        for test in passes
        if old.get(test) != "pass"
    ]
    wrongly_excused = [f"passes, but is not applicable: {test}" for test in passes if test in excused]
    return lost + unrecorded + wrongly_excused


def summary(results: Results) -> str:
    """A table of how many tests passed, failed and were skipped, per package and in all.

    A leaf is a test without subtests.
    """
    parents = {test.parent() for test in results}
    top_level = {test: result for test, result in results.items() if test.parent() is None}
    leaves = {test: result for test, result in results.items() if test not in parents}

    def row(title: str, packages: set[str]) -> list[str]:
        cells = [title]
        for group in (top_level, leaves):
            found = [result for test, result in group.items() if test.package in packages]
            cells.append(" / ".join(str(found.count(result)) for result in RESULTS))
        return cells

    packages = sorted({test.package for test in results})
    rows = [["package", "top-level pass / fail / skip", "leaves pass / fail / skip"]]
    rows += [row(package, {package}) for package in packages]
    rows.append(row("all", set(packages)))
    widths = [max(len(cells[column]) for cells in rows) for column in range(3)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
        for cells in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "".join(line + "\n" for line in lines)


def run_record() -> int:
    """The `record` command: a stream on standard input, a results file on standard output."""
    recording = record(sys.stdin)
    sys.stdout.write(write_results(recording.results))
    for package in recording.broken_packages:
        print(f"package {package} failed, though no test of it did", file=sys.stderr)
    if not recording.results:
        print("the stream holds no test", file=sys.stderr)
    return 1 if recording.broken_packages or not recording.results else 0


def run_guard(old: Path, new: Path, not_applicable: Path | None) -> int:
    """The `guard` command: lists what differs and fails if anything does."""
    excused: dict[Test, str] = {}
    if not_applicable is not None:
        excused = read_not_applicable(not_applicable.read_text(encoding="utf-8"))
    old_results = read_results(old.read_text(encoding="utf-8"))
    new_results = read_results(new.read_text(encoding="utf-8"))
    problems = regressions(old_results, new_results, excused)
    sys.stdout.writelines(problem + "\n" for problem in problems)
    return 1 if problems else 0


def run_summary(file: Path) -> int:
    """The `summary` command."""
    sys.stdout.write(summary(read_results(file.read_text(encoding="utf-8"))))
    return 0


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Results of the Complement suite.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help="a `go test -json` stream in, a results file out")
    guard = commands.add_parser("guard", help="fail if a run differs from the recorded results")
    guard.add_argument("old", type=Path, help="the recorded results")
    guard.add_argument("new", type=Path, help="the results of the run")
    guard.add_argument("--not-applicable", type=Path, help="tests that cannot pass")
    table = commands.add_parser("summary", help="count the results per package")
    table.add_argument("file", type=Path, help="a results file")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs one command. Exit codes: 0 done, 1 a problem with the results, 2 unreadable input."""
    options = parse_arguments(arguments)
    try:
        if options.command == "record":
            return run_record()
        if options.command == "guard":
            return run_guard(options.old, options.new, options.not_applicable)
        return run_summary(options.file)
    except (InputError, OSError, UnicodeDecodeError) as error:
        print(f"results.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
