#!/usr/bin/env bash
# Creates .venv with the exact set of requirements/constraints*.txt, mmcv's
# operators included, and a development install of mmbckd. `make setup` calls
# it; it can be interrupted and started again at any point, and does nothing
# where all is done.
#
# STACK=onedl              .venv-onedl with the maintained fork instead
# PYTHON=python3.12        the Python to use (3.10 to 3.12; the fork: to 3.13)
# XDG_CACHE_HOME           where the built mmcv is kept (~/.cache by default)
set -euo pipefail
cd -P "$(dirname "$0")/.."  # however it is reached, it is one place

STACK=${STACK:-openmmlab}
VENV=.venv
MMCV=mmcv
NEWEST=12  # Python 3.13 cannot run the setup.py of mmcv 2.1.0
if [ "$STACK" = onedl ]; then
    VENV=.venv-onedl
    MMCV=onedl-mmcv
    NEWEST=13
fi
LOG=$VENV/setup.log
DONE=$VENV/setup.done

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

pins() {  # all of them
    cat requirements/constraints.txt "requirements/constraints-$STACK.txt" |
        grep ==
}

pinned() {  # the version of a package in the constraints
    pins | sed -n "s/^$1==\([^ ;]*\).*/\1/p"
}

supported() {  # is this command a Python 3.10 to 3.$NEWEST?
    "$1" -c "import sys; sys.exit(
        not (3, 10) <= sys.version_info[:2] <= (3, $NEWEST))" >/dev/null 2>&1
}

tag_of() {  # cp311, by the command of a Python
    "$1" -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null
}

made_here() {  # and not before the clone was moved
    [ "$(sed -n 1p "$LOG" 2>/dev/null)" = "$PWD" ]
}

choose_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || die "PYTHON=$PYTHON is not a working Python" \
            "3.10 to 3.$NEWEST: name one that is."
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if supported "$candidate"; then
            PYTHON=$candidate
            return
        fi
    done
    die "no Python 3.10 to 3.$NEWEST found (python3 is" \
        "$(python3 --version 2>&1 || true)): install one, for example with" \
        "'apt install python3 python3-venv', or name it with PYTHON=..."
}

check_compiler() {
    command -v "${CXX:-c++}" >/dev/null || die "no C++ compiler" \
        "(${CXX:-c++}), which mmcv's operators need: 'apt install g++'."
}

# Debian keeps Python.h in a package of its own. Where it is not installed,
# unpacking that package into .venv does, and needs no root.
find_headers() {
    local include version
    include=$("$PYTHON" -c \
        'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$include/Python.h" ] && return
    version=$(basename "$include")  # python3.11
    if [ ! -e "$VENV/headers/usr/include/$version/Python.h" ]; then
        say "Python.h is missing, trying Debian's lib$version-dev ..."
        mkdir -p "$VENV/headers"
        (
            cd "$VENV/headers"
            apt-get download "lib$version-dev" && dpkg -x ./*.deb .
        ) >>"$LOG" 2>&1 || true
    fi
    [ -e "$VENV/headers/usr/include/$version/Python.h" ] ||
        die "Python.h of $PYTHON is missing, which mmcv's operators need:" \
            "'apt install python3-dev' (or $version-dev)."
    CPATH="$PWD/$VENV/headers/usr/include/$version"
    CPATH="$CPATH:$PWD/$VENV/headers/usr/include"
    export CPATH
}

# Finished here, by the Python that is asked for if one is, since the files that
# this script goes by were changed.
finished() {
    local file
    [ -x "$VENV/bin/python" ] && made_here || return 1
    [ -z "${PYTHON:-}" ] ||
        [ "$(tag_of "$PYTHON")" = "$(tag_of "$VENV/bin/python")" ] || return 1
    for file in requirements/constraints.txt \
        "requirements/constraints-$STACK.txt" setup.py pyproject.toml \
        mmbckd/version.py mmbckd_compat.pth tools/setup_env.sh; do
        [ "$DONE" -nt "$file" ] || return 1
    done
}

create_venv() {
    if [ -e "$VENV" ]; then
        [ -e "$LOG" ] || die "$PWD/$VENV was not made by 'make setup': move" \
            "it away, or set mmbckd up in another clone."
        # What an interrupted run left may lack pip; a changed PYTHON wants
        # another version; the scripts of a moved clone name their old place.
        if [ "$(tag_of "$VENV/bin/python")" = "$PYTHON_TAG" ] &&
            "$VENV/bin/python" -m pip --version >/dev/null 2>&1 &&
            made_here; then
            return
        fi
        say "$VENV is unfinished, moved or of another Python: creating it anew"
        rm -rf "$VENV"
    fi
    mkdir "$VENV"
    echo "$PWD" >"$LOG"
    "$PYTHON" -m venv "$VENV" >/dev/null || die "'$PYTHON -m venv' failed:" \
        "'apt install python3-venv' (or ${PYTHON##*/}-venv)."
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

install_pinned() {
    say "installing $(pins | wc -l) pinned packages into $VENV;" \
        "PyTorch and its CUDA libraries are about 3 GB ..."
    # The lists are complete, so nothing is resolved: see their head for the two
    # packages that are left out.
    pins | grep -vE "^($MMCV|opencv-python)==" >"$VENV/pinned.txt"
    pip install --no-deps --progress-bar off --requirement "$VENV/pinned.txt" \
        2>&1 | tee -a "$LOG" |
        sed -u -n -e 's/^Collecting \([^ ]*\).*/[setup]   \1/p' \
            -e 's/^Installing .*/[setup] unpacking (minutes) .../p' || {
        tail -n 10 "$LOG" >&2
        die "pip failed, see above and $LOG."
    }
}

# With a GPU, nvcc of PyTorch's CUDA version and thus CUDA operators; without
# one of them, CPU operators, which is all that semantic segmentation needs.
mmcv_flavor() {
    "$VENV/bin/python" - <<'EOF'
import re
import subprocess

import torch

flavor = ''
if torch.cuda.is_available():
    from torch.utils.cpp_extension import CUDA_HOME
    try:
        said = subprocess.run([f'{CUDA_HOME}/bin/nvcc', '--version'],
                              capture_output=True, text=True).stdout
    except OSError:
        said = ''
    found = re.search(r'release (\d+)\.', said)
    if found and found[1] == torch.version.cuda.split('.')[0]:
        flavor = '-cu' + torch.version.cuda.replace('.', '')
print(flavor)
EOF
}

build_mmcv() {  # into the folder $1
    local out=$1 log=$VENV/mmcv-build.log wheel
    check_compiler
    find_headers
    rm -rf "$VENV/mmcv-wheel"
    : >"$log"
    # CUDA operators have sources of their own, and take the plain build.
    if [ -z "$FLAVOR" ]; then
        say "building mmcv's operators once, 2 to 5 minutes" \
            "(output in $log) ..."
        compile_mmcv merged || say "  merging mmcv's sources failed (see" \
            "$log): compiling them one by one, 5 to 15 minutes ..."
    else
        say "building mmcv's CUDA operators once, 5 to 15 minutes" \
            "(output in $log) ..."
    fi
    compgen -G "$VENV/mmcv-wheel/*.whl" >/dev/null ||
        compile_mmcv plain || {
        tail -n 25 "$log" >&2
        die "mmcv could not be built, see above and $log."
    }
    mkdir -p "$out"
    # In two steps, so that an interruption leaves no half a wheel.
    for wheel in "$VENV"/mmcv-wheel/*.whl; do
        cp "$wheel" "$out/.$$.part"
        mv "$out/.$$.part" "$out/$(basename "$wheel")"
    done
}

# Compiles the source package, showing how far it is; false if that fails.
compile_mmcv() {  # merged | plain
    local how=$1 source=$VENV/mmcv-source pid status=0 done_
    set -m  # a process group of its own, so that all of it can be stopped
    (
        export PATH="$PWD/$VENV/bin:$PATH" MMCV_WITH_OPS=1 \
            MAX_JOBS="${MAX_JOBS:-$(nproc)}"
        [ -n "$FLAVOR" ] || export CUDA_VISIBLE_DEVICES=
        rm -rf "$source"
        # mmcv's setup.py imports the PyTorch that is installed, and pip's own
        # cache of built wheels knows nothing about PyTorch.
        pip download --no-deps --no-build-isolation --no-binary "$MMCV" \
            --dest "$source" "$MMCV==$(pinned "$MMCV")" &&
            tar -xzf "$source"/*.tar.gz -C "$source" \
                --strip-components 1 &&
            { [ "$how" = plain ] ||
                python tools/merge_mmcv_sources.py "$source"; } &&
            pip wheel --verbose --no-deps --no-build-isolation \
                --no-cache-dir --wheel-dir "$VENV/mmcv-wheel" "./$source"
    ) >>"$VENV/mmcv-build.log" 2>&1 &
    pid=$!
    set +m
    trap 'kill -- -$pid 2>/dev/null || true' EXIT
    while kill -0 $pid 2>/dev/null; do
        for _ in $(seq 30); do
            kill -0 $pid 2>/dev/null || break
            sleep 1
        done
        done_=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$VENV/mmcv-build.log" |
            tail -n 1 | tr -d ' ' || true)
        say "  mmcv ${done_:-preparing}"
    done
    trap - EXIT
    wait $pid || status=$?
    rm -rf "$source"
    return $status
}

install_mmcv() {
    local wheel
    FLAVOR=$(mmcv_flavor)
    CACHE=$CACHE$FLAVOR
    wheel=$(find_mmcv)
    if [ -z "$wheel" ]; then
        build_mmcv "$CACHE"
        wheel=$(find_mmcv)
    fi
    say "installing $wheel"
    pip install --quiet --no-deps --force-reinstall "$wheel"
}

find_mmcv() {  # the wheel in the cache, or nothing
    [ ! -d "$CACHE" ] ||
        find "$CACHE" -name "${MMCV/-/_}-$(pinned "$MMCV")-*.whl" -print -quit
}

[ -f "requirements/constraints-$STACK.txt" ] ||
    die "expected STACK=openmmlab or STACK=onedl, but got STACK=$STACK."
finished && exit
choose_python
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "$PYTHON has no" \
    "venv: 'apt install python3-venv' (or ${PYTHON##*/}-venv)."
PYTHON_TAG=$(tag_of "$PYTHON")
# mmcv's operators fit one Python and one PyTorch only.
CACHE=${XDG_CACHE_HOME:-~/.cache}/mmbckd/wheels
mkdir -p "$CACHE" 2>/dev/null && [ -w "$CACHE" ] || die "expected a folder to" \
    "keep the built mmcv in, but $CACHE cannot be written to: name another" \
    "with XDG_CACHE_HOME=..."
CACHE=$CACHE/$PYTHON_TAG-torch$(pinned torch)

say "using $("$PYTHON" --version) ($(command -v "$PYTHON"))"
create_venv
if [ -z "$(find_mmcv)" ]; then
    # Better now than after 3 GB of downloads.
    check_compiler
    find_headers
fi
install_pinned
install_mmcv
say 'installing mmbckd (development install)'
pip install --quiet --no-deps --no-build-isolation --editable .
"$VENV/bin/python" -W ignore -m mmbckd >"$LOG.report" 2>&1 || {
    cat "$LOG.report" >&2
    die 'mmbckd does not work in the new environment, see above.'
}
touch "$DONE"
say "done: $VENV/bin/python -m mmbckd describes the environment"
