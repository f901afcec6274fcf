#!/usr/bin/env bash
# Runs every command and program that the documents show, against an instance of its own, which has the image busybox:demo,
# listens on a TCP port, too, and trusts 127.0.0.1 as a proxy.
#
#   tests/docs/run_docs.sh [FILE…]
#
# In README.md, ARCHITECTURE.md, CONTRIBUTING.md, SECURITY.md and docs/*.md:
#   ```sh        is run by bash -eu -o pipefail, ```python by python3; the blocks of a file share one directory and what they
#                export, in order
#   ```python ```js ```go ```c ```haproxy ```nginx ```yaml   whose first line is a comment with a file's name: that file, which
#                a later command must use
#   ```console   is for eyes only: its commands must be in the list of run_docs.py, with the test that runs them
#   ```text      right after a block: what it must have written; … stands for anything on a line
# Paths and addresses of the default instance are replaced by those of the one that is tested.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 tests/docs/run_docs.py "$@"
