#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages plimsoll needs and this machine lacks. Installs nothing twice, and needs
# neither network nor root when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/install_dependencies.sh [--check] [--tests]

Installs what plimsoll needs to build, train and report: compiler, CMake, libraries, Python packages.
As root or with password-less sudo it installs; as any other user it prints the command an administrator must run.
  --check   install nothing, say what is missing
  --tests   also what only the long tests use: a SLURM, except under systemd, where its services would be started
exit status: 0 nothing needed is missing, 1 something is, 2 wrong usage
TEXT
}

check_only=no
for_tests=no
for argument in "$@"; do
    case $argument in
        --check) check_only=yes ;;
        --tests) for_tests=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

# package, or package:command where a command found elsewhere (a newer compiler, say) serves as well
required=(g++:g++ cmake:cmake ninja-build:ninja pkg-config:pkg-config libfmt-dev libtomlplusplus-dev libcli11-dev
    nlohmann-json3-dev libgtest-dev python3:python3)
python_packages=(python3-pandas python3-matplotlib)
optional=(libdnnl-dev libopenblas-dev libopenmpi-dev openmpi-bin:mpirun git:git)
declare -A without=(
    [libdnnl-dev]="oneDNN: matrix products are slower" [libopenblas-dev]="OpenBLAS: slower where oneDNN is absent"
    [libopenmpi-dev]="MPI: one process only" [openmpi-bin]="mpirun: one process only"
    [git]="git: --version shows no commit" [slurm-wlm]="SLURM: its scenarios are skipped"
    [munge]="munge: SLURM's scenarios are skipped" [iproute2]="ip: SLURM's scenarios are skipped")
# Under systemd SLURM's packages would start services.
if [ $for_tests = yes ] && [ ! -d /run/systemd/system ]; then
    optional+=(slurm-wlm munge iproute2)
fi

say() { printf 'dependencies: %s\n' "$*"; }

installed() { # installed PACKAGE[:COMMAND]
    local package=${1%%:*} command=${1#*:}
    if [ "$command" != "$1" ] && command -v "$command" >/dev/null 2>&1; then return 0; fi
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | cut -c1-2)" = ii ]
}

can_report() { # some Python of this machine can write the report
    local python
    for python in .venv/bin/python /usr/bin/python3 python3; do
        if command -v "$python" >/dev/null 2>&1 && "$python" -c 'import pandas, matplotlib' >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

# An unpacked bundle (scripts/offline_bundle.sh) holds every library, and stands where apt could fetch nothing.
bundle=no
[ ! -e .deps/libraries/VERSIONS ] || bundle=yes
if [ $bundle = yes ] || ! command -v dpkg-query >/dev/null 2>&1; then
    if [ $bundle = yes ]; then where="the libraries are in .deps"; else where="this is no Debian or Ubuntu"; fi
    lacking=()
    for tool in g++ cmake python3; do command -v "$tool" >/dev/null 2>&1 || lacking+=("$tool"); done
    [ $bundle = yes ] || can_report || lacking+=("pandas and matplotlib for python3")
    if [ ${#lacking[@]} -gt 0 ]; then
        say "$where; please install: $(printf '%s, ' "${lacking[@]}" | sed 's/, $//')"
        exit 1
    fi
    if [ $bundle = no ]; then
        say "$where; CMake will say which libraries are missing"
    elif can_report; then
        say "all present; $where"
    else
        say "$where; going on without pandas and matplotlib, so scripts/report.py has to run elsewhere"
    fi
    exit 0
fi

needed=()
wished=()
for entry in "${required[@]}"; do installed "$entry" || needed+=("${entry%%:*}"); done
for entry in "${optional[@]}"; do installed "$entry" || wished+=("${entry%%:*}"); done
if ! can_report; then
    for entry in "${python_packages[@]}"; do installed "$entry" || needed+=("$entry"); done
fi

if [ ${#needed[@]} -eq 0 ] && [ ${#wished[@]} -eq 0 ] && can_report; then
    say "all present"
    exit 0
fi

name_wished() { # one line for each optional package that stays away
    local package
    for package in "$@"; do say "going on without $package (${without[$package]})"; done
}

if [ $check_only = yes ]; then
    [ ${#needed[@]} -eq 0 ] || say "missing: ${needed[*]}"
    [ ${#wished[@]} -eq 0 ] || say "missing, optional: ${wished[*]}"
    [ ${#needed[@]} -eq 0 ] && can_report
    exit
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
elif [ ${#needed[@]} -eq 0 ] && can_report; then
    name_wished "${wished[@]}"
    exit 0
else
    say "packages are missing and this user may not install any. An administrator must run:"
    printf '\n    apt-get update && apt-get install -y --no-install-recommends %s\n\n' "${needed[*]} ${wished[*]}"
    say "then start this again."
    exit 1
fi

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@"; }
has_candidate() { # no pipe to grep -q: with pipefail its early end would count as a failure of apt-cache
    local policy
    policy=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null)
    [[ $policy =~ Candidate:\ [^\(] ]]
}
install() { apt install -y --no-install-recommends "$@"; }

# The package lists are fetched only when something needed is unknown, or when there are none at all.
updated=no
update_lists() {
    [ $updated = no ] || return 0
    updated=yes
    say "fetching the package lists"
    apt update || say "the package lists could not be fetched; trying with those at hand"
}
known=yes
for package in "${needed[@]}"; do has_candidate "$package" || known=no; done
compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || known=no
[ $known = yes ] || update_lists

available=()
absent=()
for package in "${wished[@]}"; do
    if has_candidate "$package"; then available+=("$package"); else absent+=("$package"); fi
done
by_venv=no
from_apt=()
for package in "${needed[@]}"; do
    case $package in
        python3-pandas | python3-matplotlib)
            if has_candidate "$package"; then from_apt+=("$package"); else by_venv=yes; fi
            ;;
        *) from_apt+=("$package") ;;
    esac
done

if [ ${#from_apt[@]} -gt 0 ]; then
    say "installing ${from_apt[*]}"
    if ! install "${from_apt[@]}"; then
        update_lists
        if ! install "${from_apt[@]}"; then
            say "apt-get could not install: ${from_apt[*]}"
            exit 1
        fi
    fi
fi
for package in "${available[@]}"; do
    say "installing $package (optional)"
    install "$package" || absent+=("$package")
done
name_wished "${absent[@]}"

if [ $by_venv = yes ] || ! can_report; then
    say "the system's packages lack pandas or matplotlib: making .venv"
    python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null || install python3-venv || true
    if ! { python3 -m venv .venv && .venv/bin/python -m pip install --quiet pandas matplotlib; }; then
        say "pandas and matplotlib could not be installed; the report needs them"
        exit 1
    fi
fi
say "done"
