#!/usr/bin/env bash
# Runs every command that the documents show, against the instance at MAYFLY_HOST, which has the image busybox:demo.
#
# In README.md, ARCHITECTURE.md, CONTRIBUTING.md and docs/*.md:
#   ```sh        is run by bash -eu -o pipefail, ```python by python3; the blocks of a file share one directory, in order
#   ```console   is for eyes only: its commands must be in the list of run_docs.py, with the test that runs them
#   ```text      right after a block: what it must have written; … stands for anything on a line
# Paths of the default instance are replaced by those of the one that is tested.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec python3 tests/docs/run_docs.py "$@"
