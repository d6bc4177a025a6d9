# Sourced by train.sbatch and sweep.sbatch: runs one `plimsoll train` as the job's ranks, hands signals on, and puts the
# job back into the queue where that helps.
#
#   PLIMSOLL_LAUNCH   srun, mpirun or tcp; by default the first of them that works here
#   PLIMSOLL_PORT     where ranks meet with tcp; by default one between 20000 and 29999 made from the job's number

# How SLURM names this job. The bare number of one of an array's tasks means the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

say() { printf '%(%F %T)T job %s: %s\n' -1 "$job" "$*"; }

# A field of what SLURM knows of this job.
job_field() { scontrol --oneliner show job "$job" 2>/dev/null | grep -o " $1=[^ ]*" | head -1 | cut -d= -f2; }

# The words before the program, as `launcher`.
choose_launcher() {
    local program=$1 ranks=${SLURM_NTASKS:-1} how=${PLIMSOLL_LAUNCH:-}
    local per_rank=(--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
    if [ -z "$how" ]; then
        if [ "$ranks" = 1 ]; then how=alone
        elif ! ldd "$program" | grep -q libmpi; then how=tcp
        elif srun --mpi=list 2>&1 | grep -qw pmix; then how=srun
        elif command -v mpirun >/dev/null; then how=mpirun
        else how=tcp
        fi
    fi
    # -K1: should one rank die, the others are ended too, and srun does not wait for them.
    case $how in
    alone) launcher=(srun --mpi=none -K1 "${per_rank[@]}") ;;
    srun) launcher=(srun --mpi=pmix -K1 "${per_rank[@]}") ;;
    mpirun) launcher=(mpirun -n "$ranks" --bind-to none) ;;
    tcp)
        export PLIMSOLL_RENDEZVOUS
        PLIMSOLL_RENDEZVOUS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1):$(
            )${PLIMSOLL_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
        launcher=(srun --mpi=none -K1 "${per_rank[@]}")
        ;;
    *)
        say "PLIMSOLL_LAUNCH is '$how', wanted srun, mpirun or tcp"
        exit 78
        ;;
    esac
    say "$ranks ranks by $how: ${launcher[*]}${PLIMSOLL_RENDEZVOUS:+, meeting at $PLIMSOLL_RENDEZVOUS}"
}

# Whether this batch script still is the job: SLURM may have given it up, and started the job again elsewhere.
is_current() {
    [ "$(job_field Restarts)" = "${SLURM_RESTART_COUNT:-0}" ] && [ "$(job_field JobState)" = RUNNING ]
}

# Whether no other job has taken the run over.
owns_run() { grep -q "\"job\": \"$SLURM_JOB_ID\"" "$1/run.lock"; }

requeue() {
    if ! is_current; then
        say "not requeued: it is $(job_field JobState), restarted $(job_field Restarts) times"
    elif scontrol requeue "$job"; then
        say "requeued: $1"
        sleep 60 # until SLURM ends this script
    else
        say "not requeued: SLURM refuses; submitting it again goes on"
    fi
}

# run_job PROGRAM train ...: the job's ranks, to their end. Exits with their status, unless the job is requeued.
run_job() {
    local directory step status
    say "restart ${SLURM_RESTART_COUNT:-0}, nodes $SLURM_JOB_NODELIST, until $(job_field EndTime)"
    # Reads the configuration: an error ends the job here, with one message.
    directory=$("$@" --where) || exit
    choose_launcher "$1"
    # To this shell alone. What TERM means (scancel, preemption, the time limit) the ranks hear from SLURM itself.
    trap 'say "USR1: saving"; kill -USR1 "$step"' USR1
    trap 'say "TERM"' TERM
    "${launcher[@]}" "$@" &
    step=$!
    wait "$step"
    status=$?
    # A trap interrupts `wait`.
    while kill -0 "$step" 2>/dev/null; do
        wait "$step"
        status=$?
    done
    # srun ends with 0 when it has lost the nodes.
    if [ "$status" = 0 ] && ! grep -q '"status": "done"' "$directory/run.json"; then status=75; fi
    say "status $status"
    if [ "$status" = 85 ] && grep -q '"stopped_by": "\(SIGUSR1\|time limit\)"' "$directory/run.json"; then
        requeue "saved"
    elif [ "$status" = 85 ] && [ "$(job_field PreemptTime)" != None ]; then
        # SLURM requeues it by itself, unless this script ends before that.
        say "preempted; waiting for SLURM"
        sleep 600
    elif { [ "$status" = 75 ] || [ "$status" -gt 128 ]; } && owns_run "$directory"; then
        requeue "a passing fault, or a rank that was killed; train.max_restarts limits how often"
    fi
    exit "$status"
}
