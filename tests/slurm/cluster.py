"""A real SLURM on this machine: munged, slurmctld and four slurmd, each a virtual node with a host name of its own.

Everything lies in one folder; nothing of the machine's own configuration is used. The daemons live in private
namespaces (`in_namespaces`): they see only a loopback device of their own, and end with the test, whatever happens.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import harness

wait_for = functools.partial(harness.wait_for, pause=0.1)  # its conditions ask SLURM
NODES, CPUS, GPUS, PORT = 4, 4, 2, 26800
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "unshare", "ip")

SLURM_CONF = """\
ClusterName=plimsoll
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits cred_expire before it may start; the default is two minutes.
AuthInfo=socket={dir}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmdPidFile={dir}/run/slurmd.%n.pid
SlurmctldLogFile={dir}/log/slurmctld.txt
SlurmdLogFile={dir}/log/slurmd.%n.txt
TmpFS={dir}/tmp/%n
TaskProlog={dir}/etc/task_prolog.sh
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
# More CPUs than the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
BatchStartTimeout=10
MessageTimeout=10
TCPTimeout=2
UnkillableStepTimeout=30
InactiveLimit=0
MinJobAge=3600
GresTypes=gpu
NodeName=node[1-{nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory=1000 \
Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=node[1-{nodes}] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=node[1-{nodes}] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

# Its lines "export NAME=VALUE" become part of a task's environment. Open MPI would look for another network device, and
# name its shared memory alike on two nodes.
TASK_PROLOG = """\
#!/bin/sh
echo "export OMPI_MCA_btl_tcp_if_include=lo"
echo "export OMPI_MCA_oob_tcp_if_include=lo"
echo "export OMPI_MCA_btl_vader_backing_directory={dir}/shm/$SLURMD_NODENAME"
"""


class Unavailable(Exception):
    """No cluster can be had here; the text says why."""


def in_namespaces():
    """Goes on as process 1 of namespaces of its own. Raises Unavailable where that cannot be."""
    if os.environ.get("PLIMSOLL_SLURM_TEST") == "inside":
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        run("ip", "link", "set", "lo", "up")
        # Without an address that is not 127.0.0.1, names resolve to nothing (AI_ADDRCONFIG).
        run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
        run("hostname", "localhost")
        return
    missing = [name for name in PROGRAMS if not which(name)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found (apt-get install slurm-wlm munge iproute2)")
    unshare = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--"]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise Unavailable(f"no private namespaces: {tried.stderr.strip()} (they take root)")
    sys.stdout.flush()
    os.execvpe("unshare", [*unshare, sys.executable, *sys.argv], {**os.environ, "PLIMSOLL_SLURM_TEST": "inside"})


def which(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def processes(name, *words):
    """Ids of live processes of this program whose command line holds all words. Zombies have none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().strip() == name[:15]:
                line = (folder / "cmdline").read_bytes().split(b"\0")
                if all(word.encode() in line for word in words) and line != [b""]:
                    found.append(int(folder.name))
    return found


def command_line(pid):
    """Empty where there is no such process, or no more than its exit status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def environment_of(pid):
    with contextlib.suppress(OSError):
        pairs = (pair.partition(b"=") for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
        return {key.decode(): value.decode(errors="replace") for key, _, value in pairs}
    return {}


def descendants(pid):
    """Processes below this one, deepest first."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [*descendants(child), child]
    return found


def kill(pids, number=signal.SIGKILL):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Cluster:
    """Started by `with`."""

    def __init__(self, folder):
        # Short: the path of a unix socket has fewer than 108 bytes.
        self.dir = Path(folder).resolve()
        self.conf = self.dir / "etc/slurm.conf"
        os.environ["SLURM_CONF"] = str(self.conf)

    def __enter__(self):
        self.write_files()
        self.start_munge()
        self.start_controller()
        for node in range(1, NODES + 1):
            self.start_node(node)
        self.wait_until_idle()
        return self

    def __exit__(self, *_):
        run("scancel", "--user=root", check=False)
        kill(pid for daemon in processes("slurmstepd") for pid in [daemon, *descendants(daemon)])
        for name in ("slurmd", "slurmctld", "slurmscriptd", "munged"):
            kill(processes(name))

    def write_files(self):
        for name in ("munge", "etc", "run", "log", "state", "spool", "tmp", "dev", "shm"):
            (self.dir / name).mkdir(parents=True)
        self.dir.parent.chmod(0o755)  # munged wants a socket that everybody can reach
        for name in ("tmp", "shm"):
            (self.dir / name).chmod(0o1777)
        for node in range(1, NODES + 1):
            for name in ("spool", "tmp", "shm"):
                (self.dir / name / f"node{node}").mkdir()
        # A GPU resource wants a character device; any will do.
        for gpu in range(GPUS):
            (self.dir / f"dev/gpu{gpu}").symlink_to("/dev/null")
        names = "".join(f"127.0.0.1 node{node}\n" for node in range(1, NODES + 1))
        (self.dir / "etc/hosts").write_text("127.0.0.1 localhost\n" + names)
        (self.dir / "etc/gres.conf").write_text(
            f"AutoDetect=off\nNodeName=node[1-{NODES}] Name=gpu File={self.dir}/dev/gpu[0-{GPUS - 1}]\n")
        (self.dir / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # unused; stops a search for one
        prolog = self.dir / "etc/task_prolog.sh"
        prolog.write_text(TASK_PROLOG.format(dir=self.dir))
        prolog.chmod(0o755)
        self.conf.write_text(SLURM_CONF.format(dir=self.dir, port=PORT, nodes=NODES, cpus=CPUS, gpus=GPUS,
                                               first=PORT + 1, last=PORT + NODES))

    def start_munge(self):
        folder = self.dir / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        run("munged", f"--socket={folder}/socket", f"--key-file={key}", f"--pid-file={folder}/pid",
            f"--log-file={folder}/log", f"--seed-file={folder}/seed", "--num-threads=2")

    def start_controller(self):
        kill(processes("slurmscriptd"))  # what a killed slurmctld leaves behind
        run("setsid", "slurmctld", "-f", str(self.conf))
        wait_for(lambda: "UP" in run("scontrol", "ping", check=False), "slurmctld answers", 20)

    def start_node(self, node):
        """A host name and an /etc/hosts of its own: Open MPI, NCCL and plimsoll see a machine."""
        script = 'hostname "$1"; mount --bind "$2/etc/hosts" /etc/hosts; exec slurmd -N "$1" -f "$2/etc/slurm.conf"'
        run("setsid", "unshare", "--uts", "--mount", "--", "sh", "-c", script, "sh", f"node{node}", str(self.dir))

    def wait_until_idle(self):
        def idle():
            return len(run("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N", check=False).split()) == NODES
        wait_for(idle, "all nodes idle", 40)

    # What may happen to a cluster.

    def step_daemons(self, node):
        return [pid for pid in processes("slurmstepd") if environment_of(pid).get("SLURMD_NODENAME") == f"node{node}"
                or any(environment_of(child).get("SLURMD_NODENAME") == f"node{node}" for child in descendants(pid))]

    def kill_daemon(self, node):
        """slurmd is gone; what it started lives on."""
        kill(processes("slurmd", f"node{node}"))

    def cut_power(self, node):
        """slurmd, its step daemons and every task of theirs."""
        self.kill_daemon(node)
        for daemon in self.step_daemons(node):
            kill([daemon, *descendants(daemon)])

    def kill_controller(self):
        kill(processes("slurmctld"))

    def restart_controller(self):
        self.kill_controller()
        self.start_controller()

    # Jobs.

    def submit(self, *words, environment=None):
        """-> job id. `words`: of sbatch."""
        out = run("sbatch", "--parsable", *map(str, words), environment=environment)
        return int(out.strip().split(";")[0])

    def job(self, number):
        """Fields of scontrol show job."""
        out = run("scontrol", "--oneliner", "show", "job", str(number), check=False)
        return dict(re.findall(r"(\w+)=(\S*)", out.splitlines()[0])) if out else {}

    def state(self, number):
        return self.job(number).get("JobState", "")

    def wait_for_state(self, number, *states, seconds=60):
        return wait_for(lambda: self.state(number) in states and self.state(number),
                        f"job {number} is {' or '.join(states)} (it is {self.state(number)})", seconds)

    def queue(self):
        return run("squeue", "-h", "-o", "%i %T").split("\n")[:-1]


def run(*words, check=True, environment=None):
    """What a command printed. Raises AssertionError with its message if it fails."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, **(environment or {})})
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
