#!/usr/bin/env bash
# Makes an environment, installs and passes all tests.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
source "$root/scripts/env.sh" "$work/env" "[test]"
cd "$root"
# More random graphs and altered rules: python scripts/fuzz.py, python scripts/mutate_rules.py.
"$work/env/bin/python" -m pytest "$@"
