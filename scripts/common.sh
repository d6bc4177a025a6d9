# Sourced by quickstart.sh and test.sh: steps with their time, and a configure and build that fit the machine.
# shellcheck shell=bash

STEP_NAMES=()
STEP_SECONDS=()
STEP_NAME=""

step() { # step NAME: ends the step before, announces the next
    end_step
    STEP_NAME=$1
    STEP_START=$SECONDS
    printf '\n==> %s\n' "$1"
}

end_step() {
    [ -n "$STEP_NAME" ] || return 0
    STEP_NAMES+=("$STEP_NAME")
    STEP_SECONDS+=($((SECONDS - STEP_START)))
    printf '    %s: %s\n' "$STEP_NAME" "$(duration $((SECONDS - STEP_START)))"
    STEP_NAME=""
}

duration() { # duration SECONDS -> '4 s' or '3 min 07 s'
    if [ "$1" -lt 60 ]; then printf '%d s' "$1"; else printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); fi
}

step_times() {
    local i
    for i in "${!STEP_NAMES[@]}"; do
        printf '    %-34s %s\n' "${STEP_NAMES[$i]}" "$(duration "${STEP_SECONDS[$i]}")"
    done
}

# One compiler process takes up to about 1.3 GiB here (the JSON and TOML headers), so memory may allow fewer than cores.
build_jobs() {
    local cores free_kib limit used
    cores=$(nproc 2>/dev/null || echo 1)
    free_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo 2>/dev/null)
    [ -n "$free_kib" ] || free_kib=$((cores * 1400000))
    if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [ "$limit" != max ]; then
        # the cache counted in memory.current is given back under pressure
        used=$(awk '/^anon |^shmem |^slab_unreclaimable /{s += $2} END {printf "%d", s}' \
            /sys/fs/cgroup/memory.stat 2>/dev/null || echo 0)
        limit=$(((limit - used) / 1024))
        [ "$limit" -ge "$free_kib" ] || free_kib=$limit
    fi
    local jobs=$((free_kib / 1400000))
    [ "$jobs" -ge 1 ] || jobs=1
    [ "$jobs" -le "$cores" ] || jobs=$cores
    echo "$jobs"
}

configure_build() { # configure_build DIR [cmake arguments...]
    local dir=$1
    shift
    local generator=()
    if [ ! -e "$dir/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then generator=(-G Ninja); fi
    cmake -S . -B "$dir" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release "$@"
}

build_all() { # build_all DIR [targets...]
    local dir=$1 jobs
    shift
    jobs=$(build_jobs)
    echo "    $jobs compilers at a time"
    if [ $# -gt 0 ]; then cmake --build "$dir" --parallel "$jobs" --target "$@"; else
        cmake --build "$dir" --parallel "$jobs"; fi
}
