"""ReFrame tests of qafel-mpi: the benchmarks codec, server, p2p and ingest, and a wall run with its replay.

    reframe -C jobs/site/reframe_settings.py -c jobs/site/reframe_qafel.py --run
    reframe ... --run -S references=references.toml        # judged; `qafel-mpi bench references` writes the file

Written for ReFrame 4.10. It needs no module of qafel-mpi: every test ends with `qafel-mpi bench reframe`, which says
what was measured and which references hold for it. So a reference means the same here and in `bench --reference`.
"""

import json
import os

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.backends import getlauncher
from reframe.core.builtins import parameter, run_after, run_before, sanity_function, variable

# How the launchers say "a core for each rank" and "no binding".
BINDINGS = {
    "mpirun": {"core": ["--bind-to core"], "none": ["--bind-to none"]},
    "srun": {"core": ["--cpu-bind=cores"], "none": ["--cpu-bind=none"]},
}


class Qafel(rfm.RunOnlyRegressionTest):
    """A command of qafel-mpi that leaves results, and the commands that look at them."""

    valid_systems = ["*"]
    valid_prog_environs = ["qafel"]
    sourcesdir = None
    tags = {"qafel"}
    executable = "qafel-mpi"

    references = variable(
        str, value=""
    )  # a file that `qafel-mpi bench references` wrote; "": nothing is judged
    seconds = variable(float, value=1.0)  # the longest time for one row of a benchmark
    nodes = variable(int, value=1)
    results = variable(str, value="result.json")

    @run_after("init")
    def keep_results(self):
        self.keep_files = [self.results, "variables.json"]
        self.references = (
            os.path.abspath(self.references) if self.references else ""
        )  # jobs run in other folders

    @run_before("run")
    def ask_for_performance_variables(self):
        against = f" --reference {self.references}" if self.references else ""
        self.postrun_cmds += [f"qafel-mpi bench reframe {self.results}{against} > variables.json"]

    @sanity_function
    def has_ended_with_right_content(self):
        """`bench reframe` writes nothing where rows are missing or a reference is wrong, and tells wrong content."""
        return sn.all(
            [
                sn.assert_not_found(
                    r"wrong content|rows are missing|no row has|no column", self.stderr, msg=self.said()
                ),
                sn.assert_true(self.measured(), msg=self.said()),
            ]
        )

    def said(self):
        """The last lines that the commands wrote to stderr, in one."""
        with open(str(self.stderr), encoding="utf-8", errors="replace") as file:
            return " | ".join(file.read().strip().splitlines()[-3:]).replace("{", "(").replace("}", ")")

    def measured(self):
        """Name -> value, unit and reference; {} where there is no result."""
        try:
            with open(f"{self.stagedir}/variables.json", encoding="utf-8") as file:
                return json.load(file)["variables"]
        except (OSError, ValueError):
            return {}

    @run_before("performance")
    def hold_values_against_references(self):
        judged = {}
        for name, found in self.measured().items():
            self.perf_variables[name] = sn.make_performance_function(sn.defer(found["value"]), found["unit"])
            if found["reference"]:
                judged[name] = tuple(found["reference"])
        self.reference = {self.current_partition.fullname: judged}


class OnRanks(Qafel):
    """Several ranks: how many, over how many nodes (`-S nodes=2`), and bound or not."""

    binding = parameter(["none", "core"])

    @run_before("run")
    def spread_and_bind(self):
        self.num_tasks_per_node = -(-self.num_tasks // self.nodes)
        name = self.current_partition.launcher_type.registered_name
        self.job.launcher.options += BINDINGS.get(name, {}).get(self.binding, [])


@rfm.simple_test
class QafelCodec(Qafel):
    """Encoding and decoding in one process, against passes over memory."""

    bits = parameter([2, 4, 8])

    @run_before("run")
    def measure(self):
        self.job.launcher = getlauncher("local")()
        self.executable_opts = [
            f"bench codec --codec qsgd --bits {self.bits} --d 29282,1000000 --device cpu",
            f"--seconds {self.seconds} --json {self.results}",
        ]


@rfm.simple_test
class QafelServer(Qafel):
    """Uploads received and server steps in one process, against passes over memory."""

    algorithm = parameter(["qafel", "fedbuff"])
    sizes = variable(str, value="29282,1000000")
    buffer = variable(int, value=10)

    @run_before("run")
    def measure(self):
        self.job.launcher = getlauncher("local")()
        self.executable_opts = [
            f"bench server --algorithm {self.algorithm} --d {self.sizes} --buffer {self.buffer}",
            f"--seconds {self.seconds} --json {self.results}",
        ]


@rfm.simple_test
class QafelP2P(OnRanks):
    """Latency and bandwidth between two ranks: on one node, or on two with -S nodes=2."""

    num_tasks = 2
    smallest = variable(int, value=8)
    largest = variable(int, value=4 << 20)

    @run_before("run")
    def measure(self):
        self.executable_opts = [
            f"bench p2p --from {self.smallest} --to {self.largest}",
            f"--seconds {self.seconds} --json {self.results}",
        ]


@rfm.simple_test
class QafelIngest(OnRanks):
    """Uploads per second that rank 0 takes from 1, 2, 4, ... client ranks."""

    ranks = parameter([2, 4, 8])
    payloads = variable(str, value="1024,15000,262144")

    @run_before("run")
    def measure(self):
        self.executable_opts = [
            f"bench ingest --bytes {self.payloads} --seconds {self.seconds} --json {self.results}"
        ]

    @run_after("init")
    def scale(self):
        self.num_tasks = self.ranks


@rfm.simple_test
class QafelDigits(OnRanks):
    """A run on the wall clock, which must have sent the bytes that its codec promises, and which is trained again.

    The replay, in one process, must end with the digest that the run's server had.
    """

    ranks = parameter([4, 8])
    uploads = variable(int, value=2000)
    results = "digits.h5"

    # 4 bits for each of 4,810 elements, and 4 bytes for each of the 10 scales: see docs/codecs.md.
    payload_bytes = 4810 * 4 // 8 + 4 * 10

    @run_after("init")
    def scale(self):
        self.num_tasks = self.ranks

    @run_before("run")
    def train(self):
        stop = f"--set stop.uploads={self.uploads} --set stop.accuracy=1.0"
        self.executable_opts = [f"run digits {stop} --out {self.results} --json > run.json"]
        self.postrun_cmds = [f"qafel-mpi replay {self.results} --json > replay.json", *self.postrun_cmds]

    @sanity_function
    def has_bytes_and_digest(self):
        run, again = self.read("run.json"), self.read("replay.json")
        return sn.all(
            [
                sn.assert_true(self.measured(), msg=self.said()),
                sn.assert_eq(run.get("outcome"), "finished"),
                sn.assert_eq(run.get("payload_bytes_up"), self.payload_bytes * run.get("uploads", 0)),
                sn.assert_eq(again.get("outcome"), "the same", msg=self.said()),
                sn.assert_eq(again.get("x_digest"), run.get("x_digest")),
            ]
        )

    def read(self, name):
        try:
            with open(f"{self.stagedir}/{name}", encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}
