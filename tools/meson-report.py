#!/usr/bin/env python3
"""Prints one line for each test that Meson ran, as tools/test.sh counts them: testlog.json holds one object a line."""
import json
import sys

WORDS = {"OK": "ok", "EXPECTEDFAIL": "ok", "SKIP": "skip"}
bad = 0
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        test = json.loads(line)
        word = WORDS.get(test["result"], "not ok")
        bad += word == "not ok"
        reason = ""
        if word == "skip":
            said = (test.get("stdout") or test.get("stderr") or "").strip().splitlines()
            reason = ": " + (said[-1] if said else "no reason given")
        elif word == "not ok":
            reason = ": " + test["result"].lower()
        print(f"{word} - {test['name']}{reason}")
sys.exit(1 if bad else 0)
