#!/usr/bin/env bash
# A Slurm cluster of one node, this machine: to try a sweep where there is no cluster, and for the tests in tests/slurm.
#
#     eval "$(bash scripts/slurm_one_node.sh start --install)"    # prints the line that points Slurm's commands at it
#     bash scripts/slurm_one_node.sh status                       # the node and its jobs; fails if nothing runs
#     bash scripts/slurm_one_node.sh stop                         # cancels every job and stops the daemons
#
# Each takes a folder for everything the cluster writes as its last word; by default one of yours under $TMPDIR or /tmp.
# --install fetches Debian's packages where Slurm is missing, and needs root; everything else works as any user, who is
# then the only one that can submit. Needs neither systemd nor cgroups, so it runs in a container. Time limits, arrays,
# requeue and signals are Slurm's; memory is counted but not enforced; there are no GPUs and there is no accounting.
# A job in partition `high` preempts one in `debug` (the default): that gets its --signal, 20 s or a little more, and is
# requeued. The daemons listen on every interface, as Slurm's do, and answer only who has the key in the folder.
# Tried with Slurm 22.05 (Debian 12). Exit status 3: Slurm is not there and was not installed.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
packages=(slurmctld slurmd slurm-client munge)

say() { echo "slurm_one_node: $*" >&2; }
die() { say "$1"; exit "${2:-1}"; }
usage() { die "usage: $0 start [--install] [FOLDER] | stop [FOLDER] | status [FOLDER]" 2; }

# wait_for SECONDS WHAT COMMAND...: poll until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || die "gave up waiting for $what; the logs are in $folder/log"
        sleep 0.1
    done
}

have_slurm() { type slurmctld slurmd sbatch munged >/dev/null 2>&1; }

install_slurm() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || die "--install needs root and apt-get" 3
    say "installing ${packages[*]}"
    # The lock is for a second start at the same moment; apt-get and what it starts do not hold it.
    (
        flock --timeout 600 9 || exit
        have_slurm && exit
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -q && apt-get install -qy --no-install-recommends "${packages[@]}"; } >&2 9<&-
    ) 9</var/lib/apt/lists || die "apt-get could not install ${packages[*]}" 3
}

# Whether a process id is one of this folder's daemons: numbers are used again, and a zombie has no command line.
ours() { grep -qsF "$folder/" "/proc/$1/cmdline"; }
gone() { ! ours "$1"; }

# pid_of DAEMON: print its process id if it runs.
pid_of() {
    local pid
    pid=$(cat "$folder/$1.pid" 2>/dev/null) && ours "$pid" && echo "$pid"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Two neighbouring ports nobody uses: those of before, as jobs that outlived their daemons know them, else a random pair
# below the range that the kernel hands out.
free_port() {
    local port
    port=$(sed -n 's/^SlurmctldPort=//p' "$SLURM_CONF" 2>/dev/null) || true
    for _ in {1..100}; do
        [[ $port ]] && ! listens "$port" && ! listens $((port + 1)) && echo "$port" && return
        port=$((20000 + 2 * (RANDOM % 6000)))
    done
    die "found no free port"
}

# Memory for jobs in MiB: nine tenths of what there is, or of this container's limit where that is less.
memory_mib() {
    local kib limit
    kib=$(awk '/^MemTotal/ {print $2}' /proc/meminfo)
    for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
        limit=$(cat "$limit" 2>/dev/null) || continue
        [[ $limit == max ]] || kib=$((limit / 1024 < kib ? limit / 1024 : kib))
    done
    echo $((kib * 9 / 10 / 1024))
}

write_configuration() {
    local node port cpus memory user
    node=$(uname -n | cut -d. -f1)
    port=$(free_port)
    cpus=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)  # nproc would count OpenMP's threads
    memory=$(memory_mib)
    user=$(id -un)
    cat >"$folder/slurm.conf" <<END
ClusterName=one_node
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits for cred_expire seconds before it starts again; 120 where nothing is said.
AuthInfo=socket=$folder/munge.socket,cred_expire=15
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
# No cgroups, no accounting, no MPI.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# Ended jobs can be asked after for an hour: there is no accounting to ask.
MinJobAge=3600
KillWait=5
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=DEFAULT Nodes=$node MaxTime=INFINITE DefMemPerCPU=$((memory / cpus))
PartitionName=debug Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high PriorityTier=10 PreemptMode=OFF
END
}

make_folder() {
    [[ $folder != *[[:space:]]* ]] || die "Slurm takes no spaces in $folder; choose another folder"
    ((${#folder} < 80)) || die "$folder is too long a path for a socket; choose a shorter one"
    mkdir -p -m 700 "$folder"
    [[ -O $folder && $(stat -c %a "$folder") == 700 ]] \
        || die "$folder is not yours alone (owner and mode 700); choose another folder"
    mkdir -p "$folder/log" "$folder/state" "$folder/spool"
    [[ -s $folder/munge.key ]] || (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
}

up() { [[ $(sinfo -h -o %T) =~ ^(idle|mixed|allocated|completing)$ ]]; }
all_run() { pid_of munged && pid_of slurmctld && pid_of slurmd; } >/dev/null
some_run() { pid_of munged || pid_of slurmctld || pid_of slurmd; } >/dev/null

# Start those that do not run. While one does, the configuration stays as it and the jobs know it.
start_daemons() {
    some_run || write_configuration
    # --force: the folder is closed to other users, and munged warns of that.
    pid_of munged >/dev/null || munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
        --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed" --log-file="$folder/log/munged.log" \
        2>>"$folder/log/munged.log"
    wait_for 20 "munged" munge --socket="$folder/munge.socket" --no-input
    pid_of slurmctld >/dev/null || slurmctld -f "$SLURM_CONF" 2>>"$folder/log/slurmctld.log"
    pid_of slurmd >/dev/null || slurmd -f "$SLURM_CONF" 2>>"$folder/log/slurmd.log"
    wait_for 60 "the node" up
}

start() {
    have_slurm || { [[ $install ]] && install_slurm; } \
        || die "Slurm is not installed; as root on Debian or Ubuntu, --install does that" 3
    make_folder
    if all_run; then
        say "runs already in $folder"
    else
        start_daemons
    fi
    echo "export SLURM_CONF=$(printf %q "$SLURM_CONF")"
}

no_jobs() { local jobs; jobs=$(squeue -h) && [[ -z $jobs ]]; }

# A job ends only through its daemons, so one that died is started again for it.
end_jobs() { start_daemons && scancel --user="$(id -un)" && wait_for 30 "the jobs to end" no_jobs; }

stop() {
    local daemon pid failed=
    some_run || return 0
    (end_jobs) || failed=yes
    for daemon in slurmd slurmctld munged; do
        pid=$(pid_of "$daemon") || continue
        kill "$pid"
        (wait_for 30 "$daemon to stop" gone "$pid") || kill -KILL "$pid"
    done
    [[ ! $failed ]] || die "stopped, but jobs may still run; the logs are in $folder/log"
}

status() {
    some_run || die "nothing runs in $folder"
    all_run || die "a daemon is missing in $folder; start brings it back"
    sinfo
    squeue
}

command=${1:-}
shift || true
install=
if [[ $command == start && ${1:-} == --install ]]; then
    install=yes
    shift
fi
[[ $# -le 1 && ${1:-} != -* ]] || usage
folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/kto-lab-slurm-$(id -u)}")
export SLURM_CONF="$folder/slurm.conf"
case $command in
    start | stop | status) "$command" ;;
    *) usage ;;
esac
