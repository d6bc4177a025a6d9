#!/usr/bin/env python3
"""Stock llama.cpp for the tests: finds the driver (llama_driver.cpp with the library), or builds it once.

The source is that of one release of the PyPI package llama-cpp-python, which holds llama.cpp whole. Everything lies in
.deps/llama_cpp-VERSION, or in the folder that PLIMSOLL_LLAMA_CPP names.

usage: tests/gguf/llama_cpp.py      builds; says "skipped: ..." where it cannot
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.3.36"
ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("PLIMSOLL_LLAMA_CPP") or ROOT / f".deps/llama_cpp-{VERSION}")
SOURCE, BUILD = FOLDER / "source", FOLDER / "build"
DRIVER_SOURCE = Path(__file__).with_name("llama_driver.cpp")
DRIVER = BUILD / "bin/llama_driver"


class Missing(Exception):
    """llama.cpp cannot be had here; the text says why."""


def run(command, what, seconds):
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{what}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Missing(f"{what} ended with status {done.returncode}: {last}")


def fetch():
    """The source package, unpacked: llama.cpp alone."""
    package = FOLDER / f"llama_cpp_python-{VERSION}.tar.gz"
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not package.is_file():
        run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary",
             "llama-cpp-python", f"llama-cpp-python=={VERSION}", "-d", FOLDER],
            f"pip download llama-cpp-python=={VERSION}", 300)
    unpacked = FOLDER / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    with tarfile.open(package) as archive:
        archive.extractall(unpacked, members=[m for m in archive if m.name.startswith(inside)])
    (unpacked / inside).rename(SOURCE)
    shutil.rmtree(unpacked)


def build():
    """Makes the driver if it is not there, or older than its source. -> its path"""
    if not DRIVER.is_file() or DRIVER.stat().st_mtime < DRIVER_SOURCE.stat().st_mtime:
        if not (BUILD / "bin/libllama.so").is_file():
            if not SOURCE.is_dir():
                fetch()
            options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", "-DCMAKE_C_FLAGS_RELEASE=-O2",
                       "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF",
                       "-DLLAMA_BUILD_EXAMPLES=OFF", "-DBUILD_SHARED_LIBS=ON", "-DGGML_CCACHE=OFF"]
            run(["cmake", "-S", SOURCE, "-B", BUILD, *options], "configuring llama.cpp", 120)
            run(["cmake", "--build", BUILD, "--target", "llama", "--parallel", "2"], "building llama.cpp", 1500)
        run(["c++", "-std=c++17", "-O1", DRIVER_SOURCE, "-o", DRIVER, f"-I{SOURCE}/include", f"-I{SOURCE}/ggml/include",
             f"-L{BUILD}/bin", "-lllama", "-lggml", "-lggml-base", "-Wl,-rpath,$ORIGIN"], "compiling llama_driver", 120)
    return DRIVER


def gguf_reader():
    """The class GGUFReader of the Python package gguf: the one installed, or the one in llama.cpp's source."""
    try:
        from gguf import GGUFReader
        return GGUFReader
    except ImportError:
        pass
    # Without the package's __init__, which wants libraries for what is not needed here.
    import importlib
    import types
    package = types.ModuleType("gguf")
    package.__path__ = [str(SOURCE / "gguf-py/gguf")]
    sys.modules["gguf"] = package
    return importlib.import_module("gguf.gguf_reader").GGUFReader


if __name__ == "__main__":
    try:
        print(build())
    except Missing as missing:
        print(f"skipped: {missing}")
