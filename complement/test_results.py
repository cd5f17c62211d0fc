"""Unit tests of `results.py`: `python3 -m unittest discover complement` from the repository."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import results
from results import InputError, Result, Results, Test

ROOT = "github.com/example/suite/tests"


def event(action: str, test: str | None = None, package: str = f"{ROOT}/csapi") -> str:
    """One line of a stream."""
    fields = {"Time": "2026-01-01T00:00:00Z", "Action": action, "Package": package}
    if test is not None:
        fields["Test"] = test
    return json.dumps(fields) + "\n"


def csapi(**named: Result) -> Results:
    """Results of the package csapi, by test name; `__` stands for a slash."""
    return {
        Test("csapi", name.replace("__", "/")): result for name, result in named.items()
    }


class PackageNames(unittest.TestCase):
    """`short_package`."""

    def test_is_what_follows_the_tests_folder(self) -> None:
        self.assertEqual(results.short_package(f"{ROOT}/csapi"), "csapi")
        self.assertEqual(results.short_package(f"{ROOT}/msc1/deep"), "msc1/deep")

    def test_is_tests_for_the_folder_itself(self) -> None:
        self.assertEqual(results.short_package(ROOT), "tests")

    def test_is_the_whole_path_outside_the_folder(self) -> None:
        self.assertEqual(results.short_package("example.org/other"), "example.org/other")


class Record(unittest.TestCase):
    """`record` and the text it is written as."""

    def test_keeps_the_result_of_tests_and_subtests(self) -> None:
        stream = [
            event("start"),
            event("run", "TestA"),
            event("run", "TestA/one"),
            event("pause", "TestA/one"),
            event("cont", "TestA/one"),
            event("output", "TestA/one"),
            event("pass", "TestA/one"),
            event("pass", "TestA"),
            event("run", "TestB"),
            event("skip", "TestB"),
            event("pass"),
        ]
        recording = results.record(stream)
        self.assertEqual(
            recording.results, csapi(TestA="pass", TestA__one="pass", TestB="skip")
        )
        self.assertEqual(recording.broken_packages, [])

    def test_counts_an_unfinished_test_as_failed(self) -> None:
        recording = results.record([event("run", "TestA"), event("fail")])
        self.assertEqual(recording.results, csapi(TestA="fail"))
        self.assertEqual(recording.broken_packages, [])

    def test_passes_over_lines_that_are_no_events(self) -> None:
        stream = ["go: downloading x\n", "\n", "3\n", '{"a":1}\n', event("run", "TestA")]
        stream.append(event("pass", "TestA"))
        self.assertEqual(results.record(stream).results, csapi(TestA="pass"))

    def test_lets_a_later_stream_replace_an_earlier_one(self) -> None:
        first = [event("run", "TestA"), event("fail", "TestA"), event("fail")]
        again = [event("run", "TestA"), event("pass", "TestA"), event("pass")]
        self.assertEqual(results.record(first + again).results, csapi(TestA="pass"))
        self.assertEqual(results.record(again + first).results, csapi(TestA="fail"))

    def test_keeps_a_test_failed_while_a_subtest_is(self) -> None:
        first = [event("run", f"TestA{suffix}") for suffix in ("", "/one", "/two")]
        first += [event("fail", f"TestA{suffix}") for suffix in ("/one", "/two", "")]
        again = [event("run", "TestA"), event("run", "TestA/one")]
        again += [event("pass", "TestA/one"), event("pass", "TestA")]
        self.assertEqual(
            results.record(first + again).results,
            csapi(TestA="fail", TestA__one="pass", TestA__two="fail"),
        )

    def test_names_packages_that_failed_without_a_test(self) -> None:
        build = '{"ImportPath":"example.org/x","Action":"build-fail"}\n'
        recording = results.record([build, event("start"), event("fail")])
        self.assertEqual(recording.results, {})
        self.assertEqual(recording.broken_packages, ["csapi"])

    def test_writes_sorted_lines_that_read_back(self) -> None:
        found: Results = {
            Test("tests", "TestA"): "pass",
            Test("csapi", "TestB/é"): "fail",
            Test("csapi", "TestB"): "fail",
        }
        text = results.write_results(found)
        self.assertEqual(
            text,
            '{"package": "csapi", "test": "TestB", "result": "fail"}\n'
            '{"package": "csapi", "test": "TestB/é", "result": "fail"}\n'
            '{"package": "tests", "test": "TestA", "result": "pass"}\n',
        )
        self.assertEqual(results.read_results(text), found)

    def test_refuses_a_file_of_another_format(self) -> None:
        good = '{"package": "csapi", "test": "TestA", "result": "pass"}\n'
        for bad in ("x\n", "[]\n", '{"package": "p"}\n', good + good, good.replace("pass", "ok")):
            with self.subTest(bad), self.assertRaises(InputError):
                results.read_results(bad)


class Guard(unittest.TestCase):
    """`regressions` and the list of tests that are not applicable."""

    def test_agrees_with_the_same_results(self) -> None:
        same = csapi(TestA="pass", TestB="fail", TestC="skip")
        self.assertEqual(results.regressions(same, same), [])

    def test_lists_lost_passes(self) -> None:
        old = csapi(TestA="pass", TestB="pass", TestC="pass", TestD="fail")
        new = csapi(TestA="fail", TestB="skip")
        self.assertEqual(
            results.regressions(old, new),
            [
                "lost: csapi TestA was pass, is fail",
                "lost: csapi TestB was pass, is skip",
                "lost: csapi TestC was pass, is missing",
            ],
        )

    def test_lists_passes_that_are_not_recorded(self) -> None:
        new = csapi(TestA="pass", TestB="pass", TestC="fail")
        self.assertEqual(
            results.regressions(csapi(TestA="fail"), new),
            [
                "unrecorded: csapi TestA is pass, was fail",
                "unrecorded: csapi TestB is pass, was missing",
            ],
        )

    def test_lists_passes_that_are_said_not_to_apply(self) -> None:
        same = csapi(TestA="pass", TestB="fail")
        excused = results.read_not_applicable("# why\n\ncsapi TestA\tr\ncsapi TestB\tr\n")
        self.assertEqual(
            results.regressions(same, same, excused),
            ["passes, but is not applicable: csapi TestA"],
        )

    def test_wants_a_reason_for_each_test_that_does_not_apply(self) -> None:
        self.assertEqual(
            results.read_not_applicable("csapi TestA/one\tdropped, CS §1.2\n"),
            {Test("csapi", "TestA/one"): "dropped, CS §1.2"},
        )
        for bad in ("csapi TestA", "csapi TestA\t ", "TestA\treason"):
            with self.subTest(bad), self.assertRaises(InputError):
                results.read_not_applicable(bad)


class Summary(unittest.TestCase):
    """`summary`."""

    def test_counts_top_level_tests_and_leaves(self) -> None:
        found = csapi(TestA="fail", TestA__one="pass", TestA__two="fail", TestB="skip")
        found[Test("tests", "TestA")] = "pass"
        self.assertEqual(
            results.summary(found),
            "| package | top-level pass / fail / skip | leaves pass / fail / skip |\n"
            "|---------|------------------------------|---------------------------|\n"
            "| csapi   | 0 / 1 / 1                    | 1 / 1 / 1                 |\n"
            "| tests   | 1 / 0 / 0                    | 1 / 0 / 0                 |\n"
            "| all     | 1 / 1 / 1                    | 2 / 1 / 1                 |\n",
        )


class Commands(unittest.TestCase):
    """The command line, end to end."""

    def run_command(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """The exit code and standard output of one command."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with mock.patch("sys.stdin", io.StringIO(stdin)):
                return results.main(list(arguments)), out.getvalue()

    def test_record_then_guard_then_summary(self) -> None:
        passed = event("run", "TestA") + event("pass", "TestA")
        failed = event("run", "TestA") + event("fail", "TestA")
        with tempfile.TemporaryDirectory() as folder:
            old, new = Path(folder, "old.jsonl"), Path(folder, "new.jsonl")
            excused = Path(folder, "not-applicable.txt")
            excused.write_text("csapi TestA\treason\n", encoding="utf-8")
            for file, stream in ((old, passed), (new, failed)):
                code, text = self.run_command("record", stdin=stream)
                self.assertEqual(code, 0)
                file.write_text(text, encoding="utf-8")
            self.assertEqual(self.run_command("guard", str(old), str(old)), (0, ""))
            self.assertEqual(
                self.run_command("guard", str(old), str(new)),
                (1, "lost: csapi TestA was pass, is fail\n"),
            )
            flag = ("--not-applicable", str(excused))
            self.assertEqual(self.run_command("guard", str(old), str(old), *flag)[0], 1)
            self.assertEqual(self.run_command("guard", str(new), str(new), *flag)[0], 0)
            self.assertEqual(self.run_command("summary", str(old))[0], 0)
            self.assertEqual(self.run_command("summary", str(excused))[0], 2)
            self.assertEqual(self.run_command("summary", folder)[0], 2)

    def test_record_fails_without_tests(self) -> None:
        self.assertEqual(self.run_command("record")[0], 1)
        self.assertEqual(self.run_command("record", stdin=event("fail"))[0], 1)


if __name__ == "__main__":
    unittest.main()
