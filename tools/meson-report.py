#!/usr/bin/env python3
"""Prints one line for each test that Meson ran, as tools/test.sh counts them: testlog.json holds one object a line.

A program is one test; those of its cases that it skipped come with the line that each said before, which is the reason."""
import json
import re
import sys

WORDS = {"OK": "ok", "EXPECTEDFAIL": "ok", "SKIP": "skip"}
SKIPPED = re.compile(r"^\[  SKIPPED \] (\S+)$")


def skipped_cases(test):
    """cmocka(3) writes the mark after what the case printed; its list at the end goes to standard error."""
    before = ""
    for line in (test.get("stdout") or "").splitlines():
        found = SKIPPED.match(line)
        if found:
            yield found[1], "no reason given" if before.startswith("[") else before.removeprefix("skipped: ")
        before = line.strip()


bad = 0
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        test = json.loads(line)
        word = WORDS.get(test["result"], "not ok")
        bad += word == "not ok"
        reason = ""
        if word == "skip":
            said = (test.get("stdout") or test.get("stderr") or "").strip().splitlines()
            reason = ": " + (said[-1].removeprefix("skipped: ") if said else "no reason given")
        elif word == "not ok":
            reason = ": " + test["result"].lower()
        print(f"{word} - {test['name']}{reason}")
        if word == "ok":
            for case, why in skipped_cases(test):
                print(f"skip - {test['name']} {case}: {why}")
sys.exit(1 if bad else 0)
