# Functions of the other scripts, which source this file with `scripts` set to their folder. POSIX sh.
#
# A virtual environment is complete if it has a file `made`. The file contains the path of the repository and the
# variable PYTHON. Its time is the moment before the sources were copied, so any source that changes later is newer.
# The file is removed before pip starts and written again when pip is done: after an interrupted install it is
# missing, and the environment is made again.

root=$(cd "$scripts/.." && pwd -P)
# Folder of the environments, an absolute path. Two runs on one source tree need two folders.
venvs=${HKRUNNER_VENVS:-$root/.venv}
# The files from which the distribution is built.
sources='LICENSE README.md __init__.py __main__.py py.typed pyproject.toml setup.cfg boards runner sandbox'

say() { printf 'hkrunner: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

probe='
import sys
if sys.version_info >= (3, 10):
    try:
        import ensurepip, venv
    except ImportError:
        print("lacking", sys.executable)
    else:
        print("ready", sys.executable)
'

# probe_python NAME: "ready PATH", "lacking PATH" (no venv module) or nothing.
probe_python() { "$1" -I -c "$probe" 2>/dev/null || :; }

# find_python: print the path of the interpreter to use: $PYTHON, or the newest one on PATH.
find_python() {
    if [ -n "${PYTHON-}" ]; then set -- "$PYTHON"; else
        set -- python3.13 python3.12 python3.11 python3.10 python3 python
    fi
    lacking=
    for name; do
        found=$(probe_python "$name")
        case $found in
            ready*) printf '%s\n' "${found#* }"; return ;;
            lacking*) lacking=${lacking:-${found#* }} ;;
        esac
    done
    [ -z "$lacking" ] ||
        fail "$lacking has no venv module: install it (Debian: python3-venv), or name another interpreter with PYTHON="
    [ -z "${PYTHON-}" ] || fail "PYTHON=$PYTHON is not a Python 3.10 or newer"
    fail "no Python 3.10 or newer on PATH: install one, or name it with PYTHON="
}

# other_pythons VERSION: print "VERSION PATH" for each supported Python that is found, except VERSION. The oldest and
# the newest come first, because there may be no time for all.
other_pythons() {
    for version in 3.10 3.13 3.12 3.11; do
        [ "$version" != "$1" ] || continue
        for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            found=$(probe_python "$candidate")
            case $found in
                ready*) printf '%s %s\n' "$version" "${found#* }"; break ;;
            esac
        done
    done
}

# is_whole VENV: whether its install was completed, for this folder and for the variable PYTHON.
is_whole() {
    [ -x "$1/bin/python" ] && [ -r "$1/made" ] || return 1
    { IFS= read -r made_for && IFS= read -r made_with; } < "$1/made" || return 1
    [ "$made_for" = "$root" ] && { [ -z "${PYTHON-}" ] || [ "$PYTHON" = "$made_with" ]; }
}

# is_current VENV: whether it is complete and no source has changed since. Folders count too: they change when a file
# is removed. The change time is compared, because a copied file may have an old modification time.
is_current() {
    is_whole "$1" && [ -x "$1/bin/hkrunner" ] || return 1
    present=
    for source in $sources $also_watched; do
        [ ! -e "$root/$source" ] || present="$present $source"
    done
    changed=$(cd "$root" && find $present -name __pycache__ -prune -o -cnewer "$1/made" -print 2>&1) ||
        return 1
    [ -z "$changed" ]
}
also_watched=

# stage_sources FOLDER: copy the files from which the distribution is built. A build in the source tree would leave
# build/lib behind, and the next build would include modules that were removed meanwhile.
stage_sources() {
    rm -rf "$1"
    mkdir -p "$1"
    for source in $sources; do
        [ ! -e "$root/$source" ] || cp -R "$root/$source" "$1/"
    done
    find "$1" -name __pycache__ -type d -prune -exec rm -rf {} +
}

# in_venv VENV WORD...: run its python, with the output in VENV.log; if it fails, print the end of the log and exit.
in_venv() {
    venv=$1
    shift
    "$venv/bin/python" -I "$@" >> "$venv.log" 2>&1 && return
    tail -n 8 "$venv.log" >&2
    fail "installing into $venv failed; the whole log is $venv.log"
}

# ensure_venv VENV [test|others]: on return, hkrunner is installed there from the current sources. With `test`, the
# packages for the tests are installed too; with `others`, those for the tests on another than the default Python. A
# second call waits until the first one is done.
ensure_venv() {
    is_current "$1" && return
    mkdir -p "$venvs"
    (
        if command -v flock > /dev/null; then
            flock -w 900 9 || fail "another install into $1 has been going on for 15 minutes"
        fi
        is_current "$1" || bring_up_to_date "$@"
    ) 9> "$1.lock" || exit $?
}

# What builds hkrunner.
setuptools='setuptools>=77'

bring_up_to_date() {
    : > "$1.log"
    if is_whole "$1"; then
        say "the sources changed: installing them again"
    else
        python=$(find_python) || exit 1
        say "making the virtual environment ${1#"$root"/} with $python (only this time; up to a minute)"
        rm -rf "$1"
        "$python" -I -m venv "$1" >> "$1.log" 2>&1 || {
            tail -n 8 "$1.log" >&2
            fail "$python could not make a virtual environment"
        }
        # tensorboard requires setuptools anyway; with it, later installs of hkrunner download nothing.
        # install_lock brings it, too.
        [ $# -gt 1 ] || in_venv "$1" -m pip install --quiet --disable-pip-version-check --upgrade "$setuptools"
    fi
    rm -f "$1/made"
    printf '%s\n%s\n' "$root" "${PYTHON-}" > "$1.making"
    stage_sources "$1.build"
    [ $# -eq 1 ] || install_lock "$1" "$2"
    in_venv "$1" -m pip install --quiet --disable-pip-version-check --no-build-isolation "$1.build"
    rm -rf "$1.build"
    mv "$1.making" "$1/made"
}

compile='
import compileall, re, sys, sysconfig
from pathlib import Path
for name in sys.argv[1:]:
    folder = Path(sysconfig.get_path("purelib"), name)
    if folder.is_dir() and not compileall.compile_dir(folder, quiet=1, rx=re.compile("/tests?/")):
        sys.exit(f"not every module of {folder} can be compiled")
'

# install_lock VENV test|others: install the exact versions that are locked for its Python version.
install_lock() {
    version=$("$1/bin/python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    lock=$root/requirements/test-$version.txt
    [ -r "$lock" ] || {
        say "no versions are locked for Python $version: installing the newest packages for the tests"
        in_venv "$1" -m pip install --quiet --disable-pip-version-check "$setuptools" -r "$root/requirements/test.in"
        return
    }
    unwanted='#'
    [ "$2" = test ] || unwanted=$(sed '/^#/d; s/.*/^&==/' "$root/requirements/default-only.txt")
    grep -v -i -e "$unwanted" "$lock" > "$1.lock.txt"
    cmp -s "$1.lock.txt" "$1/lock.txt" || {
        # To compile all takes as long as to install them, and most modules are never imported. Those of the tests
        # that measure time or memory are compiled here, the others when they are imported.
        in_venv "$1" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r "$1.lock.txt"
        in_venv "$1" -c "$compile" click google numpy psutil scipy tensorboard websocket
        cp "$1.lock.txt" "$1/lock.txt"
    }
}
