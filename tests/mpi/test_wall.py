"""Wall runs on real ranks: the hidden state, the books, and what goes wrong."""

import gc
import json
import os
import re
import socket
import sys
import time
from collections import Counter

import h5py
import numpy as np
import psutil
import pytest
from mpi4py import MPI

from qafel_mpi import tasks
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.config import ConfigError, load
from qafel_mpi.drivers import energy, warmup
from qafel_mpi.drivers.session import TAG_UP
from qafel_mpi.drivers.survival import digests, disk
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import client as wall_client
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.drivers.wall import server as wall_server
from qafel_mpi.schedule.hosting import Hosting, Turns
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import ATTRIBUTES, FAULT_NUMBERS, UPDATES, taken
from qafel_mpi.transport import large
from qafel_mpi.transport.backoff import WaitedTooLongError
from qafel_mpi.transport.fanout import MODELS
from qafel_mpi.transport.frames import Frame, Sends
from qafel_mpi.transport.ibcast import RING
from qafel_mpi.transport.inbox import Inbox
from qafel_mpi.transport.tree import parent
from qafel_mpi.wire import Kind, WireError, write
from tests.mpi.conftest import same_everywhere, wait_in

DOWNLINKS = {
    "hidden qsgd": ["algorithm=qafel"],
    "hidden 2 bits, rate": ["downlink.bits=2", "staleness.weight=rate", "staleness.seconds=0.01"],
    "hidden topk": ["algorithm=qafel", "downlink.codec=topk", "downlink.fraction=0.1"],
    "hidden zstd": ["algorithm=qafel", "downlink.entropy=zstd", "uplink.entropy=zstd"],
    "hidden eden": [
        *("uplink.codec=eden", "uplink.rotation=shared", "downlink.codec=eden", "downlink.bits=2"),
        *(f'{link}.rules=[{{max_rank=1, codec="identity"}}]' for link in ("uplink", "downlink")),
    ],
    "error feedback": ["algorithm=qafel-ef"],
    "fadas": ["algorithm=fadas", "server.learning_rate=0.01", "staleness.weight=cosine-exp"],
    "fedbuff-nvflare": ["algorithm=fedbuff-nvflare"],
    "fedbuff-appfl": ["algorithm=fedbuff-appfl", "server.learning_rate=10"],
    "ca2fl": ["algorithm=ca2fl"],
    "none": ["algorithm=fedbuff"],
    "direct": ["algorithm=naive"],
    "checksum of headers": ["transport.checksum=header", "uplink.entropy=zstd"],
    "checksum of payloads": ["transport.checksum=full"],
    "checksum of payloads, zstd": ["transport.checksum=full", "uplink.entropy=zstd"],
    "checksum of payloads, tree": ["transport.checksum=full", "transport.broadcast=tree"],
    "thread": ["algorithm=qafel", "transport.progress=thread"],
    "tree": [
        *("algorithm=qafel", "transport.broadcast=tree", "downlink.entropy=zstd"),
        'downlink.rules=[{match="bias", codec="qsgd", bits=8}]',
    ],
    "tree, one at a time": ["algorithm=fedbuff", "transport.broadcast=tree", "transport.queue_limit=1"],
    "tree, thread": ["transport.broadcast=tree", "transport.progress=thread"],
    "ibcast": [
        *("algorithm=qafel", "transport.broadcast=ibcast"),
        'downlink.rules=[{match="bias", codec="identity"}]',
    ],
    "ibcast, one at a time": ["algorithm=fedbuff", "transport.broadcast=ibcast", "transport.queue_limit=1"],
    "ibcast, thread": ["transport.broadcast=ibcast", "transport.progress=thread"],
}
BROADCASTS = ("fanout", "tree", "ibcast")


def run(comm, folder, experiment, **options):
    return wall.run(experiment, comm, folder / "a.h5", **options)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", DOWNLINKS)
def test_hidden_state_is_identical_on_every_rank_after_a_wall_run(comm, folder, digits, name):
    summary = run(comm, folder, digits(*DOWNLINKS[name]))
    with h5py.File(folder / "a.h5") as file:
        ranks = file["ranks"][:]
        final = file["final"].attrs["x_hat_digest"]
    assert len(ranks) == comm.size
    assert {row.decode() for row in ranks["x_hat_digest"]} == {final}
    assert set(ranks["version"]) == {summary.server_steps}
    assert len(same_everywhere(comm, summary.x_digest)) == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", BROADCASTS)
def test_fedbuff_runs_with_messages_larger_than_one_call_of_mpi_takes(
    comm, folder, digits, algorithm, monkeypatch
):
    """The limit is lowered to below a message's bytes: 2^31 − 1 in truth."""
    monkeypatch.setattr(large, "MOST_BYTES", 5000)
    monkeypatch.setattr(large, "PART_BYTES", 4096)
    monkeypatch.setattr(large, "BLOCK_BYTES", 1000)
    experiment = digits("algorithm=fedbuff", f"transport.broadcast={algorithm}", "stop.uploads=30")
    summary = run(comm, folder, experiment)
    assert summary.payload_bytes_up > 30 * 5000
    assert len(same_everywhere(comm, summary.x_digest)) == 1
    assert summary.outcome == "finished"
    assert summary.dropped_messages == 0


@pytest.mark.mpi(min_size=2)
def test_the_rows_of_one_end_add_up_to_the_totals_in_plain_h5py(comm, folder, digits):
    """Each message has a row at either end; the trace's own names tell ends and kinds apart."""
    run(comm, folder, digits())
    with h5py.File(folder / "a.h5") as file:
        rows, about = file["messages"][:], dict(file.attrs)
        ends, kinds = (h5py.check_enum_dtype(file["messages"].dtype[name]) for name in ("end", "kind"))
    for end in ("sender", "receiver"):
        own = rows[rows["end"] == ends[end]]
        up, down = (own[own["kind"] == kinds[kind]] for kind in ("update", "broadcast"))
        assert up["wire_bytes"].sum() == about["wire_bytes_up"]
        assert down["payload_bytes"].sum() == about["down_links"]
    assert about.keys() <= ATTRIBUTES.keys()
    assert ATTRIBUTES.keys() - about.keys() == {
        "lost_bytes",
        "missing_ranks",
        "damaged",
        "missing_rows",
        "replay_of",
        "checkpoints",
        "resumed",
    }


@pytest.mark.mpi(min_size=2)
def test_the_joules_of_the_processors_are_in_the_trace_or_why_not(comm, folder, digits, monkeypatch):
    """On a made-up host of one package, whose counter moves on during the run."""
    package = folder / "intel-rapl:0"
    monkeypatch.setattr(energy, "POWERCAP", folder)

    def takes(joules: int) -> bool:
        (package / "part").write_text(f"{joules}000000\n")
        (package / "part").replace(package / "energy_uj")
        return False

    run(comm, folder, digits())
    with open_trace(folder / "a.h5") as trace:
        found = json.loads(trace.attributes["energy"])
    why = {socket.gethostname(): f"{folder} has no counters of processor packages"}
    assert found["cpu"] == {"joules": None, "by_host": {}, "not_measured": why}
    comm.Barrier()
    if comm.rank == 0:
        package.mkdir()
        (package / "name").write_text("package-0\n")
        (package / "max_energy_range_uj").write_text("99999999\n")
        takes(90)
    comm.Barrier()
    run(comm, folder, digits(), interrupted=lambda: takes(20))
    with open_trace(folder / "a.h5") as trace:
        found = json.loads(trace.attributes["energy"])
    assert found["cpu"]["joules"] == pytest.approx(30)
    assert found["gpu"] == {"joules": None, "by_host": {}, "not_measured": {}}


@pytest.mark.mpi(min_size=2)
def test_the_first_rank_of_a_host_compiles_before_the_others_load(comm, folder, digits, monkeypatch):
    times_s: list[float] = []
    call = warmup._call_codec

    def slow_at_first(codec, x0):
        times_s.append(time.monotonic())  # one clock for all processes of a host; MPI.Wtime is not
        if comm.rank == 0:
            time.sleep(0.2)
        call(codec, x0)
        times_s.append(time.monotonic())

    monkeypatch.setattr(warmup, "_call_codec", slow_at_first)
    run(comm, folder, digits())
    spans = comm.allgather((times_s[0], times_s[-1]))
    assert all(begun > spans[0][1] for begun, _ in spans[1:])


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", BROADCASTS)
def test_every_message_is_accounted_for(comm, folder, digits, algorithm):
    """Sent = received, message by message and byte by byte; the books agree with the messages."""
    summary = run(comm, folder, digits(f"transport.broadcast={algorithm}"))
    with h5py.File(folder / "a.h5") as file:
        messages, updates, steps = file["messages"][:], file["updates"][:], file["steps"][:]
        ranks, attributes = file["ranks"][:], dict(file.attrs)
    columns = ["kind", "src", "dst", "client", "version", "sequence", "payload_bytes", "wire_bytes"]
    sent, received = (messages[messages["end"] == end][columns] for end in (0, 1))
    assert Counter(sent.tolist()) == Counter(received.tolist())
    assert ranks["sent"].sum() == len(sent)
    assert ranks["received"].sum() == len(received)
    up = received[received["kind"] == Kind.UPDATE]
    assert len(up) == len(updates) == summary.uploads
    assert up["payload_bytes"].sum() == summary.payload_bytes_up == updates["payload_bytes"].sum()
    assert up["wire_bytes"].sum() == summary.wire_bytes_up
    down = sent[np.isin(sent["kind"], (Kind.BROADCAST, Kind.MODEL))]
    assert down["payload_bytes"].sum() == summary.down_links
    stops = Counter(received["dst"][received["kind"] == Kind.STOP].tolist())
    assert stops == dict.fromkeys(range(1, comm.size), RING if algorithm == "ibcast" else 1)
    if algorithm != "fanout":
        assert summary.down_links == summary.payload_bytes_down * (comm.size - 1)  # nobody skips a version
    if algorithm == "tree":
        assert {(row["src"], row["dst"]) for row in down} == {(parent(r), r) for r in range(1, comm.size)}
    assert steps["version"].tolist() == list(range(summary.server_steps + 1))
    assert attributes["outcome"] == summary.outcome == "finished"
    assert summary.uploads >= 40
    assert summary.dropped_messages == 0


@pytest.mark.mpi(min_size=2)
def test_times_are_in_order_and_staleness_counts_from_the_start_version(comm, folder, digits):
    run(comm, folder, digits())
    with h5py.File(folder / "a.h5") as file:
        messages, updates = file["messages"][:], file["updates"][:]
    encoded = messages[~np.isnan(messages["t_encode_begin"])]
    assert (encoded["t_encode_begin"] <= encoded["t_encode_end"]).all()
    assert (encoded["t_encode_end"] <= encoded["t_post"]).all()
    assert (messages["t_post"] <= messages["t_complete"]).all()
    decoded = messages[~np.isnan(messages["t_decode_begin"])]
    assert (decoded["t_complete"] <= decoded["t_decode_begin"]).all()
    assert (updates["staleness"] == updates["version"] - updates["start_version"]).all()
    assert (updates["staleness"] >= 0).all()
    assert updates.dtype == UPDATES


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("progress", ["poll", "thread"])
def test_clocks_skewed_in_offset_and_drift_are_recovered_within_the_bound(
    comm, folder, digits, monkeypatch, progress
):
    """Rank r's clock is 1,000 r s late and gains r ms a second; it is read again and again while the rank trains."""
    true = time.perf_counter

    def skewed() -> float:
        return true() * (1 + 1e-3 * comm.rank) - 1000.0 * comm.rank

    for name, module in list(sys.modules.items()):
        if name.startswith("qafel_mpi.") and hasattr(module, "perf_counter"):
            monkeypatch.setattr(module, "perf_counter", skewed)
    run(
        comm,
        folder,
        digits(
            f"transport.progress={progress}",
            "transport.clock_seconds=0.05",
            "client.pause_seconds=0.01",
            "stop.uploads=200",
            "stop.accuracy=1.0",
        ),
    )
    with open_trace(folder / "a.h5") as trace:
        clock, messages, known = trace.table("clock"), trace.table("messages"), trace.clocks
    for rank in range(1, comm.size):
        own = clock[clock["rank"] == rank]
        assert own["sync"].tolist() == list(range(len(own)))
        assert len(own) > 2
        true_s = (own["local_s"] + 1000.0 * rank) / (1 + 1e-3 * rank)
        assert (np.abs(own["local_s"] + own["offset_s"] - true_s) <= own["error_bound_s"] + 1e-7).all()
    # Corrected, no message is taken before it was posted, but for what the clocks can't tell.
    key = ["kind", "src", "dst", "client", "sequence"]
    sent = {tuple(row[key]): row for row in messages[messages["end"] == 0]}
    for row in messages[messages["end"] == 1]:
        posted = sent[tuple(row[key])]
        error_s = known.of(row["src"]).error_s(posted["t_post"]) + known.of(row["dst"]).error_s(
            row["t_complete"]
        )
        assert row["t_complete"] - posted["t_post"] >= -error_s - 1e-7


@pytest.mark.mpi(min_size=3)
def test_a_quorum_steps_when_its_grace_window_has_passed(comm, folder, digits):
    """The buffer is never full: all steps are the window's."""
    settings = ("server.buffer_size=100000", "server.quorum=2", "server.grace_seconds=0.03")
    settings += ("stop.steps=3", "stop.uploads=100000", "stop.accuracy=1.0")
    summary = run(comm, folder, digits("algorithm=decoupled", *settings))
    with open_trace(folder / "a.h5") as trace:
        updates, steps = trace.table("updates"), trace.table("steps")
    assert summary.server_steps == 3
    assert summary.algorithm == "decoupled"
    for step in steps[1:]:
        taken_s = np.sort(updates["finish_s"][updates["version"] == step["version"] - 1])
        assert len(taken_s) >= 2
        # The server has taken its second update after it arrived.
        assert step["time_s"] >= taken_s[1] + 0.03


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clients", ["20", "ranks"])
def test_a_server_that_asks_gets_what_its_clients_have(comm, folder, digits, clients):
    """QuAFL: a DOWNLOAD is a question to one client, its next UPDATE the answer, with as many steps as it made."""
    k = min(4, comm.size - 1) if clients == "ranks" else 4
    overrides = (
        f"task.clients={clients}",
        f"server.buffer_size={k}",
        "client.local_steps=3",
        "stop.accuracy=1.0",
        "stop.uploads=120",
    )
    summary = run(comm, folder, digits("algorithm=quafl", *overrides))
    with open_trace(folder / "a.h5") as trace:
        updates, messages = trace.table("updates"), trace.table("messages")
        first = trace.table("steps")[0]
    assert summary.outcome == "finished"
    assert summary.server_steps == summary.uploads // k
    for version in range(summary.server_steps):
        asked = updates["client"][updates["version"] == version]
        assert len(set(asked.tolist())) == len(asked) == k
    for client in set(updates["client"].tolist()):
        mine = updates[updates["client"] == client]
        assert mine["participation"].tolist() == list(range(len(mine)))
        assert len(set(mine["rank"].tolist())) == 1
    questions = messages[(messages["end"] == 0) & (messages["kind"] == Kind.DOWNLOAD)]
    assert summary.uploads <= len(questions) <= summary.uploads + k
    trained = updates[np.isfinite(updates["loss"])]
    assert len(trained) > 0
    assert (trained["train_seconds"] > 0).all()
    assert summary.loss < first["loss"]


@pytest.mark.mpi(min_size=3)
def test_synchronous_rounds_are_fedavg(comm, folder, digits):
    """Every client of a round starts from one version, and nothing is stale."""
    clients = comm.size - 1
    summary = run(
        comm, folder, digits("algorithm=fedavg", "task.clients=ranks", f"server.buffer_size={clients}")
    )
    with h5py.File(folder / "a.h5") as file:
        updates = file["updates"][:]
    used = updates[updates["weight"] > 0]
    assert (used["staleness"] == 0).all()
    for version in range(summary.server_steps):
        assert sorted(used["client"][used["version"] == version]) == list(range(clients))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("progress", ["poll", "thread"])
@pytest.mark.parametrize("draw", ["uniform", "examples", "permutation"])
def test_each_client_lives_on_one_rank_and_plays_its_turns_there(comm, folder, digits, draw, progress):
    """Shares are balanced by examples, and who plays is a function of the seed, the rank and the turn alone."""
    skewed = ("task.partition.kind=dirichlet", "task.partition.alpha=0.5")
    experiment = digits(*skewed, f"client.draw={draw}", f"transport.progress={progress}", "stop.uploads=120")
    run(comm, folder, experiment)
    task = tasks.build(experiment.task, experiment.client, seed=experiment.seed)
    sizes = task.sizes()
    hosting = Hosting.balanced(sizes, comm.size - 1)
    with h5py.File(folder / "a.h5") as file:
        updates, messages, clients = file["updates"][:], file["messages"][:], file.attrs["clients"]
    assert clients == 20
    assert (updates["examples"] == sizes[updates["client"]]).all()
    assert set(sizes) != {sizes[0]}
    sent = messages[(messages["end"] == 0) & (messages["kind"] == Kind.UPDATE)]
    loads = []
    for rank in range(1, comm.size):
        own = hosting.of(rank - 1)
        turns = Turns(own, sizes[own], draw=draw, seed=experiment.seed, rank=rank)
        played = sent[sent["src"] == rank][["client", "sequence"]].tolist()
        assert played == [turns.next() for _ in played]
        loads.append(sizes[own].sum())
    assert max(loads) - min(loads) <= sizes.max()
    recorded = Counter(map(tuple, updates[["client", "participation"]].tolist()))
    assert recorded == Counter(map(tuple, sent[["client", "sequence"]].tolist()))


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("algorithm", ["fedavg", "fedpaq"])
def test_a_synchronous_round_may_have_more_clients_than_there_are_ranks(comm, folder, digits, algorithm):
    """Each rank plays several, all different and from one version."""
    cohort = 2 * (comm.size - 1) + 1
    summary = run(
        comm, folder, digits(f"algorithm={algorithm}", f"server.buffer_size={cohort}", "stop.steps=5")
    )
    with h5py.File(folder / "a.h5") as file:
        updates = file["updates"][:]
    used = updates[updates["weight"] > 0]
    assert (used["staleness"] == 0).all()
    assert summary.server_steps * cohort <= len(used) < (summary.server_steps + 1) * cohort
    for version in range(summary.server_steps):
        of_round = used["client"][used["version"] == version]
        assert len(set(of_round.tolist())) == cohort


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("payload", [False, True])
def test_a_large_synchronous_round_goes_without_the_updates_that_were_refused(
    comm, folder, digits, monkeypatch, payload
):
    """Every client's second update is refused; rounds close with what is left of their cohort."""
    refuse(monkeypatch, lambda client, participation: participation == 1, payload=payload)
    cohort = 2 * (comm.size - 1)
    limits = ("stop.uploads=1000", "stop.seconds=20", "stop.steps=8")
    experiment = digits(
        "algorithm=fedavg", f"server.buffer_size={cohort}", *limits, f"task.clients={2 * cohort}"
    )
    summary = run(comm, folder, experiment)
    with h5py.File(folder / "a.h5") as file:
        updates = file["updates"][:]
    used = Counter(updates["version"][updates["weight"] > 0].tolist())
    assert summary.server_steps == 8
    assert summary.dropped_messages + summary.rejected_updates > 0
    # After the last step some more may be refused.
    lost = summary.dropped_messages + summary.rejected_updates
    assert 8 * cohort - lost <= sum(used[version] for version in range(8)) < 8 * cohort


@pytest.mark.mpi(min_size=2)
def test_a_unicast_download_is_made_for_the_client_that_starts_from_it(comm, folder, digits):
    run(comm, folder, digits("algorithm=naive", "downlink.delivery=unicast"))
    with h5py.File(folder / "a.h5") as file:
        messages = file["messages"][:]
    played = 0
    for rank in range(1, comm.size):
        down = messages[
            (messages["end"] == 1) & (messages["kind"] == Kind.DOWNLOAD) & (messages["dst"] == rank)
        ]
        up = messages[(messages["end"] == 0) & (messages["kind"] == Kind.UPDATE) & (messages["src"] == rank)]
        for_whom = down[["client", "sequence"]].tolist()
        who_played = up[["client", "sequence"]].tolist()[1:]  # the first one starts from x^0
        assert who_played[: len(for_whom)] == for_whom[: len(who_played)]
        played += len(who_played)
    assert played > 0, "a rank that gets no core may have played once alone"


@pytest.mark.mpi(min_size=3, max_size=3)
def test_both_clocks_need_about_as_many_uploads_for_one_population(comm, folder):
    """Seeds 0 to 2, which differ by a quarter; at any time as many clients train as there are client ranks."""
    settings = ["stop.accuracy=0.8", f"clock.concurrency={comm.size - 1}", f"transport.ranks={comm.size}"]
    uploads: dict[str, list[int]] = {"wall": [], "virtual": []}
    for seed in range(3):
        for driver, kind in ((wall, "wall"), (virtual, "virtual")):
            experiment = load("clocks", [*settings, f"seed={seed}", f"clock.kind={kind}"])
            summary = driver.run(experiment, comm, folder / f"{kind}{seed}.h5")
            assert summary.target_reached
            uploads[kind].append(summary.uploads_to_target)
    ratio = np.mean(uploads["wall"]) / np.mean(uploads["virtual"])
    assert 0.7 < ratio < 1.4, uploads


@pytest.mark.mpi(min_size=3)
def test_fewer_clients_than_client_ranks_are_refused_with_the_fix(comm, folder, digits):
    few = comm.size - 2
    with pytest.raises(
        ConfigError, match=rf"task\.clients = {few}: .*set task\.clients={few + 1} or more, or .*=ranks"
    ):
        run(comm, folder, digits(f"task.clients={few}"))


@pytest.mark.mpi(min_size=2)
def test_unicast_downloads_are_counted_one_by_one(comm, folder, digits):
    summary = run(comm, folder, digits("algorithm=naive", "downlink.delivery=unicast"))
    with h5py.File(folder / "a.h5") as file:
        messages, steps = file["messages"][:], file["steps"][:]
    down = messages[(messages["end"] == 0) & (messages["kind"] == Kind.DOWNLOAD)]
    assert down["payload_bytes"].sum() == summary.payload_bytes_down == summary.down_links
    assert len(down) > summary.server_steps
    assert (
        steps["messages_down"] * summary.payload_bytes_down == steps["payload_bytes_down"] * len(down)
    ).all()


@pytest.mark.mpi(min_size=2)
def test_fedasync_steps_at_every_update_and_a_task_without_accuracy_has_no_such_target(comm, folder, digits):
    summary = run(comm, folder, digits("algorithm=fedasync", "server.buffer_size=1"))
    with h5py.File(folder / "a.h5") as file:
        used = int((file["updates"]["weight"] > 0).sum())
    assert summary.server_steps == used  # K = 1: every update that is used is a step
    vectors = (
        "task.dataset=synthetic",
        "task.model=vectors:resnet18",
        "stop.accuracy=1.0",
        "task.partition.kind=iid",
    )
    with pytest.raises(ConfigError, match="no accuracy"):
        run(comm, folder, digits(*vectors[:3], "stop.uploads=4"))


@pytest.mark.mpi(min_size=2)
def test_a_damaged_message_is_dropped_and_counted_and_the_run_goes_on(comm, folder, digits, capfd):
    """Rank 1 sends rank 0 bytes that are no message, before its first update."""
    stray = np.arange(100, dtype=np.uint8)
    request = comm.Isend([stray, MPI.BYTE], 0, TAG_UP) if comm.rank == 1 else None
    summary = run(comm, folder, digits())
    if request is not None:
        request.Wait()
    with h5py.File(folder / "a.h5") as file:
        messages, ranks = file["messages"][:], file["ranks"][:]
    assert summary.dropped_messages == 1 == messages["dropped"].sum() == ranks["dropped"].sum()
    assert summary.uploads >= 40
    if comm.rank == 0:
        assert re.search("dropped a message: message .* from rank 1: magic", capfd.readouterr().err)


@pytest.mark.mpi(min_size=2)
def test_an_update_that_says_what_can_not_be_is_dropped_and_counted_and_the_run_goes_on(
    comm, folder, digits, monkeypatch, capfd
):
    """Its bytes are sound. With unicast its client waits for an answer."""
    seal = Frame.seal
    wild = [{"client": 2**32 - 1}, {"version": 2**40}, {"version": 2**63}, {"sequence": 2**63}]

    def sealed(frame, kind, **fields):
        seal(frame, kind, **fields)
        if wild and kind == Kind.UPDATE and comm.rank == 1:
            write(frame.data, frame.message._replace(**wild.pop()))
        return frame

    monkeypatch.setattr(Frame, "seal", sealed)
    unicast = ("algorithm=naive", "downlink.delivery=unicast", "stop.uploads=60", "stop.seconds=120")
    summary = run(comm, folder, digits(*unicast))
    with h5py.File(folder / "a.h5") as file:
        messages = file["messages"][:]
    assert summary.outcome == "finished"
    assert summary.uploads >= 60, "those that come together count together"
    assert summary.dropped_messages == 4 == messages["dropped"].sum()
    if comm.rank == 0:
        why = re.findall(r"dropped a message: message .* from rank 1: (\w+): ", capfd.readouterr().err)
        assert sorted(why) == ["client", "sequence", "version", "version"]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", BROADCASTS)
def test_a_damaged_goodbye_makes_nobody_wait_and_no_update_is_lost(
    comm, folder, digits, monkeypatch, algorithm
):
    """Every byte of it is wrong; MPI alone knows from whom it is, and how long."""
    seal = Frame.seal

    def damaged(frame, kind, **fields):
        seal(frame, kind, **fields)
        if kind == Kind.BYE and comm.rank == 1:
            frame.buffer[:] = 255
        return frame

    monkeypatch.setattr(Frame, "seal", damaged)
    summary = run(comm, folder, digits(f"transport.broadcast={algorithm}"))
    assert (summary.outcome, summary.dropped_messages) == ("finished", 1)
    with h5py.File(folder / "a.h5") as file:
        messages, updates = file["messages"][:], file["updates"][:]
    sent, received = (
        messages[(messages["end"] == end) & (messages["kind"] == Kind.UPDATE)] for end in (0, 1)
    )
    assert len(sent) == len(received) == len(taken(updates)) == summary.uploads == len(updates) - 1


def spoil(monkeypatch, comm, *, version):
    """On the last rank: an element of x̂ changes when it has become that of this version."""
    apply = Replica.apply

    def spoilt(replica, payload, key, t):
        apply(replica, payload, key, t)
        if replica.version == version:
            replica.x_hat[3] += 1

    monkeypatch.setattr(digests, "UNDER_WAY", 1000)  # none is left out
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(Replica, "apply", spoilt)


# Every version reaches every rank: none is skipped by a rank that lags.
DIGESTS = (
    "transport.digest_versions=2",
    "stop.uploads=200",
    "stop.accuracy=1.0",
    "server.buffer_size=4",
    "client.pause_seconds=0.002",
    "transport.queue_limit=200",
)


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
def test_a_rank_whose_hidden_state_differs_is_named_and_gets_the_full_state(
    comm, folder, digits, monkeypatch, capfd
):
    spoil(monkeypatch, comm, version=5)
    summary = run(comm, folder, digits(*DIGESTS))
    assert summary.outcome == "finished"  # at its end all ranks hold the same x̂: checked in every run
    with open_trace(folder / "a.h5") as trace:
        faults, messages = trace.table("faults"), trace.table("messages")
    last = comm.size - 1
    assert [(f["kind"], f["rank"]) for f in faults] == [
        (FAULT_NUMBERS["hidden state differed"], last),
        (FAULT_NUMBERS["resynchronised"], last),
    ]
    assert faults["version"][0] == 6
    models = messages[(messages["end"] == 1) & (messages["kind"] == Kind.MODEL)]
    assert last in models["dst"]
    if comm.rank == 0:
        said = capfd.readouterr().err
        assert f"rank {last} on {socket.gethostname()} holds another x̂^6 than rank 0 (digest" in said
        assert re.search(rf"rank {last} on .* holds the same x̂\^\d+ as rank 0 again", said)


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "way", ["transport.on_divergence=stop", "transport.broadcast=tree", "transport.broadcast=ibcast"]
)
def test_where_it_is_to_or_no_rank_can_be_sent_a_full_state_the_run_ends_with_its_trace(
    comm, folder, digits, monkeypatch, way
):
    spoil(monkeypatch, comm, version=3)
    summary = run(comm, folder, digits(*DIGESTS, way))
    last = f"rank {comm.size - 1} on {socket.gethostname()}"
    assert summary.outcome.startswith(f"failed: hidden state: {last} holds another x̂^4 than rank 0 (digest ")
    assert len(same_everywhere(comm, summary.outcome)) == 1
    with open_trace(folder / "a.h5") as trace:
        assert trace.attributes["outcome"] == summary.outcome


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
def test_a_payload_that_is_the_model_itself_mends_what_differs(comm, folder, digits, monkeypatch):
    spoil(monkeypatch, comm, version=4)
    summary = run(comm, folder, digits(*DIGESTS, "algorithm=fedbuff", "transport.digest_versions=1"))
    assert summary.outcome == "finished"
    with open_trace(folder / "a.h5") as trace:
        assert trace.table("faults")["kind"].tolist() == [
            FAULT_NUMBERS["hidden state differed"],
            FAULT_NUMBERS["resynchronised"],
        ]


@pytest.mark.mpi(min_size=2)
def test_digests_are_one_message_in_128_uploads_and_unicast_has_none(comm, folder, digits):
    versions = 128 * (comm.size - 1) // 4  # four uploads a version
    summary = run(
        comm, folder, digits(f"stop.uploads={4 * versions}", "server.buffer_size=4", "stop.accuracy=1.0")
    )
    assert summary.server_steps == versions
    with open_trace(folder / "a.h5") as trace:
        messages = trace.table("messages")
    own = messages[
        (messages["end"] == 1) & (messages["kind"] == Kind.DIGEST) & (messages["version"] == versions)
    ]
    assert sorted(own["src"]) == list(range(1, comm.size))
    run(comm, folder, digits("algorithm=naive", "downlink.delivery=unicast", "transport.digest_versions=1"))
    with open_trace(folder / "a.h5") as trace:
        assert Kind.DIGEST not in trace.table("messages")["kind"]


@pytest.mark.mpi(min_size=5)
@pytest.mark.parametrize("fault", ["stops reading", "loses a broadcast"])
def test_a_run_that_hangs_is_ended_by_rank_0_which_names_the_rank_and_what_it_waits_for(
    comm, folder, digits, monkeypatch, seen, fault
):
    """The last rank takes no message any more; or it never gets one that a synchronous round waits for."""
    last = comm.size - 1
    poll, post = Inbox.poll, Sends.post
    passes = []

    def deaf(inbox):
        if seen.any():  # rank 0 has ended the run: in a job, all ranks end
            raise EndedError
        passes.append(1)
        silent = fault == "stops reading" and comm.rank == last and len(passes) > 500
        return [] if silent else poll(inbox)

    def lossy(sends, frame, rank):
        lost = rank == last and frame.message.kind == Kind.BROADCAST and frame.message.version == 3
        if comm.rank or fault != "loses a broadcast" or not lost:
            post(sends, frame, rank)

    monkeypatch.setattr(Inbox, "poll", deaf)
    monkeypatch.setattr(Sends, "post", lossy)
    rounds = ["algorithm=fedpaq"] if fault == "loses a broadcast" else []
    limits = ["transport.watchdog_seconds=2.5", "stop.uploads=1000000", "stop.accuracy=1.0"]
    experiment = digits(*rounds, *limits, "client.pause_seconds=0.002")
    with pytest.raises((WaitedTooLongError, EndedError)) as raised:
        run(comm, folder, experiment)
    seen[comm.rank] = 1
    said = comm.bcast(str(raised.value))
    does = "read nothing" if fault == "stops reading" else "sent nothing"
    assert re.match(
        rf"rank {last} on {socket.gethostname()} has {does} for [\d.]+ s, after \d+ updates; ", said
    )
    assert said.endswith("transport.watchdog_seconds = 2.5 allows no more")


class EndedError(Exception):
    """In place of MPI_Abort, which would end the tests."""


def refuse(monkeypatch, which, *, payload=False):
    """Damage in the updates that `which` holds of (client, participation): rank 0 finds it in header or payload."""
    check, weigh = wall_server.check, wall_server.WallServer._weigh

    def checked(data, expected, *, rank):
        message = check(data, expected, rank=rank)
        if message.kind == Kind.UPDATE and which(message.client, message.sequence) and not payload:
            raise WireError("checksum", "damaged", rank=rank, sequence=message.sequence)
        return message

    def weighed(server, uploads):
        for received, message in uploads:
            if payload and which(message.client, message.sequence):
                received.payload[:4] = 0xFF  # a scale
        return weigh(server, uploads)

    monkeypatch.setattr(wall_server, "check", checked)
    monkeypatch.setattr(wall_server.WallServer, "_weigh", weighed)


# With a limit in seconds: who waited for ever would show in what was reached, and not hang the tests.
@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("payload", [False, True])
def test_a_unicast_client_whose_update_was_refused_gets_its_download_all_the_same(
    comm, folder, digits, monkeypatch, payload
):
    refuse(monkeypatch, lambda client, participation: client == 0 and participation < 3, payload=payload)
    unicast = (
        "algorithm=naive",
        "downlink.delivery=unicast",
        "client.pause_seconds=0.01",
        "task.clients=ranks",
    )
    uploads = 20 * (comm.size - 1)
    summary = run(comm, folder, digits(*unicast, f"stop.uploads={uploads}", "stop.seconds=20"))
    with h5py.File(folder / "a.h5") as file:
        updates, messages = file["updates"][:], file["messages"][:]
    assert (summary.dropped_messages, summary.rejected_updates) == ((0, 3) if payload else (3, 0))
    assert updates["participation"][updates["client"] == 0].max() > 3
    down = messages[(messages["end"] == 1) & (messages["kind"] == Kind.DOWNLOAD) & (messages["dst"] == 1)]
    assert down["sequence"].tolist() == list(range(1, len(down) + 1))


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("payload", [False, True])
def test_a_synchronous_round_goes_without_the_updates_that_were_refused(
    comm, folder, digits, monkeypatch, payload
):
    clients = comm.size - 1
    refuse(monkeypatch, lambda client, participation: client == participation - 2, payload=payload)
    fedavg = ("algorithm=fedavg", f"server.buffer_size={clients}", "stop.uploads=1000", "stop.seconds=20")
    summary = run(comm, folder, digits("task.clients=ranks", *fedavg, f"stop.steps={clients + 4}"))
    with h5py.File(folder / "a.h5") as file:
        updates = file["updates"][:]
    assert summary.server_steps == clients + 4
    assert (summary.dropped_messages, summary.rejected_updates) == ((0, clients) if payload else (clients, 0))
    used = Counter(updates["version"][updates["weight"] > 0].tolist())
    whole = dict.fromkeys(range(clients + 4), clients)
    assert used == whole | dict.fromkeys(range(2, clients + 2), clients - 1)  # one client short, in turn


@pytest.mark.mpi(min_size=2)
def test_a_synchronous_round_without_any_update_ends_the_run_and_says_so(comm, folder, digits, monkeypatch):
    refuse(monkeypatch, lambda client, participation: participation == 2)
    fedavg = (
        "algorithm=fedavg",
        "task.clients=ranks",
        f"server.buffer_size={comm.size - 1}",
        "stop.uploads=1000",
        "stop.seconds=20",
    )
    summary = run(comm, folder, digits(*fedavg))
    assert summary.outcome == "failed: rank 0 refused every update of round 2"
    assert summary.server_steps == 2


@pytest.mark.mpi(min_size=2)
def test_an_interrupt_ends_the_run_with_its_trace(comm, folder, digits):
    calls = []

    def interrupted() -> bool:
        calls.append(1)
        return len(calls) > 5

    summary = run(comm, folder, digits("stop.uploads=1000000"), interrupted=interrupted)
    assert summary.outcome == "interrupted"
    assert summary.interrupted
    with h5py.File(folder / "a.h5") as file:
        assert file.attrs["outcome"] == "interrupted"


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("algorithm", ["tree", "ibcast"])
def test_an_interrupt_is_seen_while_rank_0_waits_for_a_client_to_take_a_broadcast(
    comm, folder, digits, monkeypatch, seen, algorithm
):
    """The last rank looks for none before rank 0 has ended the run, or until it gives up."""
    waiting, gave_up = [], []
    wait_for_room, stop = wall_server.WallServer._wait_for_room, wall_server.WallServer._stop

    def watched(server):
        if not server.broadcast.ready:
            waiting.append(server.ledger.uploads)
        return wait_for_room(server)

    def stopping(server):
        seen[0] = 1
        stop(server)

    def pause(client, seconds):
        until_s = time.monotonic() + 10
        while not seen[0] and time.monotonic() < until_s:
            time.sleep(0.01)
        gave_up.append(not seen[0])

    monkeypatch.setattr(wall_server.WallServer, "_wait_for_room", watched)
    monkeypatch.setattr(wall_server.WallServer, "_stop", stopping)
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(wall_client.WallClient, "_pause", pause)
    experiment = digits(
        f"transport.broadcast={algorithm}",
        "transport.queue_limit=1",
        "server.buffer_size=1",
        "stop.uploads=200",
    )
    summary = run(comm, folder, experiment, interrupted=lambda: bool(waiting))
    assert summary.outcome == "interrupted"
    assert not any(comm.allgather(any(gave_up)))
    # The step that waited was not made, unless room came before the interrupt was looked for; nor was any later.
    with h5py.File(folder / "a.h5") as file:
        used = int((file["updates"]["weight"] > 0).sum())
    assert used - summary.server_steps in (0, 1)


@pytest.mark.mpi(min_size=2)
def test_what_can_only_hang_is_refused_before_the_start(comm, folder, digits):
    experiment = digits("algorithm=fedavg", "task.clients=ranks", f"server.buffer_size={comm.size}")
    with pytest.raises(ConfigError, match="would wait for ever"):
        run(comm, folder, experiment)
    fedavg = ("algorithm=fedavg", f"server.buffer_size={comm.size - 1}")
    with pytest.raises(ConfigError, match=r"set downlink\.delivery=broadcast"):
        run(comm, folder, digits(*fedavg, "downlink.delivery=unicast"))


@pytest.mark.mpi(min_size=2)
def test_spare_ranks_are_refused_where_they_could_never_take_anything_over(comm, digits, monkeypatch):
    def why(*settings, ranks=4):
        with pytest.raises(ConfigError) as refusal:
            wall.refuse_impossible(digits("transport.spares=2", *settings), ranks, MPI.THREAD_MULTIPLE)
        return str(refusal.value)

    monkeypatch.setattr(wall, "survives", lambda: False)
    assert "transport.spares = 2: this job ends when a rank dies" in why()
    monkeypatch.setattr(wall, "survives", lambda: True)
    assert "none is left to host clients" in why(ranks=3)
    assert "transport.broadcast = 'tree' needs every rank" in why("transport.broadcast=tree")
    assert "downlink.delivery = 'unicast'" in why("downlink.mode=direct", "downlink.delivery=unicast")
    wall.refuse_impossible(digits("transport.spares=2"), 4, MPI.THREAD_MULTIPLE)


@pytest.mark.mpi(min_size=2)
def test_a_progress_thread_is_refused_where_the_library_allows_no_second_thread(comm, digits):
    threaded = digits("transport.progress=thread")
    with pytest.raises(ConfigError, match=r"needs MPI_THREAD_SERIALIZED at least, .* provides funneled: set"):
        wall.refuse_impossible(threaded, comm.size, MPI.THREAD_FUNNELED)
    wall.refuse_impossible(threaded, comm.size, MPI.THREAD_SERIALIZED)
    wall.refuse_impossible(digits("transport.progress=poll"), comm.size, MPI.THREAD_SINGLE)


@pytest.mark.mpi(max_size=1)
def test_one_rank_says_what_to_do_instead(comm, folder, digits):
    with pytest.raises(ConfigError, match="mpirun -n 4 qafel-mpi run"):
        run(comm, folder, digits())


@pytest.mark.mpi(min_size=2)
def test_while_rank_0_is_away_one_rank_says_so_though_it_is_muted(comm, folder, digits, monkeypatch, capfd):
    merge = disk.merge

    def slow_merge(*arguments, **options):
        time.sleep(1.0)
        return merge(*arguments, **options)

    monkeypatch.setattr(disk, "merge", slow_merge)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        if comm.rank:
            monkeypatch.setattr(sys, "stderr", nowhere)  # as commands/process.py's mute does
        run(comm, folder, digits("transport.patience_seconds=0.2", "transport.clock_seconds=0.2"))
        monkeypatch.undo()
    said = f"rank {comm.rank} on {socket.gethostname()} waits for rank 0 to merge" in capfd.readouterr().err
    assert comm.allgather(said) == [rank == 1 for rank in range(comm.size)]


@pytest.mark.mpi(min_size=3)
def test_a_client_a_hundred_times_slower_than_the_rest_costs_rank_0_no_memory(
    comm, folder, digits, monkeypatch, seen
):
    """It neither trains nor looks for messages until the others have made 25 steps, by 50 uploads. They begin when
    it does so for the first time: without a core it would miss the whole run."""
    slow, steps = comm.size - 1, 200
    made: list[int] = []  # frames that rank 0 has made and not given up, of any kind, every few steps
    rss: list[int] = []
    step = wall_server.WallServer._step

    def watched(server):
        step(server)
        seen[0] = server.server.version
        if server.server.version % 8 == 0:  # it takes some 10 ms
            made.append(sum(type(thing) is Frame for thing in gc.get_objects()))
            rss.append(psutil.Process().memory_info().rss)

    monkeypatch.setattr(wall_server.WallServer, "_step", watched)

    def pause(client, seconds):
        if comm.rank != slow:
            wait_in(client, lambda: seen[slow])
            return
        seen[slow] = 1
        until = min(client.replica.version + 25, steps)
        while seen[0] < until:
            time.sleep(0.01)

    monkeypatch.setattr(wall_client.WallClient, "_pause", pause)
    never_met = "stop.accuracy=1.0"
    experiment = digits(
        "task.clients=ranks",
        f"stop.uploads={2 * steps}",
        never_met,
        "server.buffer_size=2",
        "transport.broadcast=fanout",
    )
    summary = run(comm, folder, experiment)
    with h5py.File(folder / "a.h5") as file:
        messages, updates = file["messages"][:], file["updates"][:]
        skipped = file.attrs["skipped_versions"]
    late = updates["client"] == slow - 1
    sent = messages[(messages["end"] == 0) & (messages["src"] == 0)]
    mine = sent[sent["dst"] == slow]
    assert summary.server_steps == steps
    assert np.median(updates["train_seconds"][late]) > 5 * np.median(updates["train_seconds"][~late])
    assert updates["staleness"][late].max() > 5 * np.median(updates["staleness"][~late])
    # It skipped versions: one full state stands for many, and its link carried fewer messages than the others'.
    assert (mine["kind"] == Kind.MODEL).any()
    assert (mine["kind"] == Kind.BROADCAST).sum() < summary.server_steps / 2
    assert skipped == (comm.size - 1) * summary.server_steps - (sent["kind"] == Kind.BROADCAST).sum()
    down = sent[np.isin(sent["kind"], (Kind.BROADCAST, Kind.MODEL))]
    assert down["payload_bytes"].sum() == summary.down_links
    half = len(made) // 2
    counts, grown = comm.bcast((made[half:], rss[-1] - rss[half]) if comm.rank == 0 else None)
    assert counts[-1] <= counts[0] + MODELS, f"frames pile up for the slow client: {counts}"
    assert grown < 4 << 20
