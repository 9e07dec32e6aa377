#!/usr/bin/env bash
# Makes an environment, installs and passes all tests.
# ENVIRONMENT names the folder to make it in, EXTRA what to install besides; arguments go to pytest.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
environment="${ENVIRONMENT:-$work/env}"
source "$root/scripts/env.sh" "$environment" "${EXTRA:-[test]}"
cd "$root"
# More random graphs and altered rules: python scripts/fuzz.py, python scripts/mutate_rules.py.
"$environment/bin/python" -m pytest "$@"
