#!/bin/sh
# pytest-mpi skips every test of a project that lies in a folder named "mpi", whether it has to do with MPI or not, and
# pytest ends with exit code 0. It asks whether the word is among a test's keywords, and the folder's name is.
# Way out: another name for the folder, or --with-mpi.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pytest-mpi==0.6 pytest==9.2.0

for name in mpi other; do
    mkdir "$folder/$name"
    echo 'def test_sum(): assert 1 + 1 == 2' >"$folder/$name/test_sum.py"
    touch "$folder/$name/pytest.ini"
done
echo "pytest-mpi 0.6, pytest 9.2.0"
run() { (cd "$folder/$1" && "$folder/venv/bin/python" -m pytest -q -rs -p no:cacheprovider); }
echo "in a folder named mpi:"
named=$(run mpi)
echo "$named"
echo "in a folder named other:"
other=$(run other)
echo "$other"
echo "$named" | grep -q '^1 skipped'
echo "$named" | grep -q 'need --with-mpi option to run'
echo "$other" | grep -q '^1 passed'
