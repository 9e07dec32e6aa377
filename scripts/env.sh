# Makes a virtual environment with this project in it.
# usage: source scripts/env.sh FOLDER EXTRA
set -euo pipefail
folder="$1"
extra="$2"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, got $("$python" --version)" >&2
    exit 1
}
"$python" -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extra"
