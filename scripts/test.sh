#!/usr/bin/env bash
# Makes an environment, installs and passes all tests.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
source "$root/scripts/env.sh" "$work/env" "[test]"
cd "$root"
# The laws on random graphs and operators take long: python scripts/fuzz.py runs them.
"$work/env/bin/python" -m pytest --ignore=tests/test_laws.py --ignore=tests/test_label_law.py "$@"
