#!/usr/bin/env bash
# For machines without network: collects the libraries a build needs into .deps/libraries and packs them into one file,
# to be unpacked in a checkout over there. scripts/cmake/dependencies.cmake takes them from there.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/offline_bundle.sh [--out FILE.tar.gz] [--cuda] [--list]

Run it on a Debian or Ubuntu with network (no root needed), carry the file to the machine without, and there, in the
checkout:  tar -xzf plimsoll_deps.tar.gz
Then scripts/test.sh, scripts/quickstart.sh and cmake work as everywhere. That machine needs a C++20 compiler, CMake,
Ninja or make, and python3. oneDNN, OpenBLAS and MPI are used if it has them; without the first two, training on the CPU
is many times slower. Python's pandas and matplotlib are not in the file: without them runs are trained there, and
scripts/report.py draws the report elsewhere, from a copy of the run directories.
  --out FILE  where to put the file (default: .deps/plimsoll_deps.tar.gz)
  --cuda      nvcc too, by scripts/install_cuda.sh (about 100 MB more)
  --list      only say what would be packed, with versions
TEXT
}

# The folder in .deps/libraries, the Debian package it comes from, and what is taken of it: headers, and of GoogleTest
# the sources. Tried with Debian 12: fmt 9.1.0, toml++ 3.3.0, CLI11 2.1.2, nlohmann-json 3.11.2, GoogleTest 1.12.1.
libraries=(
    "fmt libfmt-dev usr/include/fmt"
    "tomlplusplus libtomlplusplus-dev usr/include/toml++"
    "CLI11 libcli11-dev usr/include/CLI"
    "nlohmann_json nlohmann-json3-dev usr/include/nlohmann"
    "googletest googletest usr/src/googletest/googletest/include/gtest usr/src/googletest/googletest/src"
)

out=.deps/plimsoll_deps.tar.gz
cuda=no
list=no
while [ $# -gt 0 ]; do
    case $1 in
        --out)
            [ -n "${2:-}" ] || { echo "offline_bundle: --out wants a file" >&2; exit 2; }
            case $2 in /*) out=$2 ;; *) out=$from/$2 ;; esac
            shift
            ;;
        --cuda) cuda=yes ;;
        --list) list=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "offline_bundle: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

say() { printf 'bundle: %s\n' "$*"; }
fail() { printf 'bundle: %s\n' "$*" >&2; exit 1; }

installed_version() { # empty where the package is not installed
    local found
    found=$(dpkg-query -W -f '${db:Status-Abbrev} ${Version}' "$1" 2>/dev/null) || return 0
    case $found in ii*) printf '%s' "${found##* }" ;; esac
}

if [ $list = yes ]; then
    for entry in "${libraries[@]}"; do
        read -r folder package _ <<<"$entry"
        version=$(installed_version "$package")
        printf '%-14s %-20s %s\n' "$folder" "$package" "${version:-not installed, would be downloaded}"
    done
    exit 0
fi

command -v dpkg-deb >/dev/null 2>&1 || fail "needs the packages of a Debian or Ubuntu; run it on one, or in a container"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

mkdir "$scratch/libraries"
for entry in "${libraries[@]}"; do
    read -r folder package paths <<<"$entry"
    version=$(installed_version "$package")
    root=
    if [ -z "$version" ]; then # fetched and unpacked, not installed
        mkdir "$scratch/$package"
        (cd "$scratch/$package" && apt-get -q download "$package" && dpkg-deb -x ./*.deb .) >"$scratch/log" 2>&1 ||
            { tail -3 "$scratch/log" >&2; fail "$package could not be fetched; try apt-get update first"; }
        version=$(dpkg-deb -f "$scratch/$package"/*.deb Version)
        root=$scratch/$package
    fi
    for path in $paths; do
        case $path in */src) target=$scratch/libraries/$folder ;; *) target=$scratch/libraries/$folder/include ;; esac
        mkdir -p "$target"
        cp -R "$root/$path" "$target/"
    done
    cp "$root/usr/share/doc/$package/copyright" "$scratch/libraries/$folder/"
    printf '%s %s %s\n' "$folder" "$package" "$version" >>"$scratch/libraries/VERSIONS"
    say "$folder from $package $version"
done

mkdir -p .deps
echo '*' >.deps/.gitignore # nothing of .deps belongs into git
rm -rf .deps/libraries
mv "$scratch/libraries" .deps/
packed=(.deps/.gitignore .deps/libraries)
if [ $cuda = yes ]; then
    [ -x .deps/cuda/bin/nvcc ] || scripts/install_cuda.sh --force
    packed+=(.deps/cuda .deps/cuda-venv/lib/python*/site-packages/nvidia)
fi
tar --owner=0 --group=0 --sort=name -czf "$out" "${packed[@]}" || fail "could not write $out"
say "$(du -h "$out" | cut -f1) in $out"
say "this checkout builds with the same libraries from now on; to go back: rm -r .deps/libraries"
