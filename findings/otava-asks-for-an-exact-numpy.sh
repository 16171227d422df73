#!/bin/sh
# apache-otava asks pip for numpy 2.2.0 and scipy 1.16, and for BigQuery, PostgreSQL and Slack; its analysis needs none.
# So pip installs an old numpy beside it, or refuses; with a newer numpy and without the rest the analysis works.
# Way out: pip install --no-deps apache-otava, and import otava.analysis alone.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps apache-otava==0.8.0 numpy==2.4.6 scipy==1.17.1

cat >"$folder/show.py" <<'PYTHON'
import random
import subprocess
import sys
from importlib.metadata import requires

import numpy
import scipy
from otava.analysis import compute_change_points

asked = [line for line in requires("apache-otava") if "extra ==" not in line]
print(f"numpy {numpy.__version__}, scipy {scipy.__version__}; apache-otava 0.8.0 asks for {len(asked)} packages:")
print("\n".join(f"  {line}" for line in asked))
check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True).stdout
draw = random.Random(1)
values = [draw.gauss(10, 0.1) for _ in range(20)] + [draw.gauss(12, 0.1) for _ in range(20)]
(found,), _ = compute_change_points(values)
print(f"without them its analysis finds the step at 20 at {found.index}")
assert "numpy==2.2.0.*" in check, "it no longer asks for an exact numpy"
assert "google-cloud-bigquery" in check and "slack-sdk" in check, "it no longer asks for these clients"
assert found.index == 20, "the analysis finds something else"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
