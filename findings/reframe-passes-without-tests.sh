#!/bin/sh
# ReFrame passes, with exit code 0, where it ran nothing: its file of tests does not load, or a name chooses none of them.
# A reference whose name is misspelt passes too: no value is held against it.
# Way out: look at the number of test cases in its report, and let the tests themselves compare the names.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reframe-hpc==4.10.4

cat >"$folder/good.py" <<'PYTHON'
import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import performance_function, sanity_function


@rfm.simple_test
class Good(rfm.RunOnlyRegressionTest):
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "echo speed 1"
    reference = {"*": {"sped": (100, -0.1, 0.1, "GB/s")}}  # for speed

    @sanity_function
    def ran(self):
        return sn.assert_found("speed", self.stdout)

    @performance_function("GB/s")
    def speed(self):
        return sn.extractsingle(r"speed (\d+)", self.stdout, 1, float)
PYTHON
echo "import no_such_module" | cat - "$folder/good.py" >"$folder/broken.py"

run() { # FILE OPTIONS...: what it says at its end, after its exit code
    code=0
    file=$1
    shift
    (cd "$folder" && venv/bin/reframe --nocolor --prefix "$folder/stage" -c "$file" --run "$@") >"$folder/said" 2>&1 || code=$?
    echo "$code $(grep PASSED "$folder/said" || echo no PASSED)"
}
misspelt=$(run good.py)
none=$(run good.py -n NoSuchTest)
broken=$(run broken.py)
echo "ReFrame 4.10.4"
echo "a reference for 'sped', a speed of 1 that should be 100: $misspelt"
echo "-n NoSuchTest: $none"
echo "a file that does not load: $broken"
case $misspelt in "0 "*"Ran 1/1"*) ;; *) echo "a misspelt reference is noticed now" && exit 1 ;; esac
case $none in "0 "*"Ran 0/0"*) ;; *) echo "a name that chooses nothing fails now" && exit 1 ;; esac
case $broken in "0 "*"Ran 0/0"*) ;; *) echo "a file that does not load fails now" && exit 1 ;; esac
