# Read by the scripts beside it, with `scripts` set to their folder. POSIX sh.
#
# A virtual environment is whole when its file `made` is there. The file holds the
# repository's path and the PYTHON that was asked for; its time is the moment just before the
# sources were copied, so that any source changed later is newer. It is taken away before pip
# starts and put back when pip is done: an interrupted install leaves none, and is made anew.

root=$(cd "$scripts/.." && pwd -P)
# Where the environments are, an absolute path. Another place keeps two that test one source tree out of each other's way.
venvs=${HKRUNNER_VENVS:-$root/.venv}
# What the distribution is built from.
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

# find_python: print the path of the interpreter to use: $PYTHON, else the newest on PATH.
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

# other_pythons VERSION: one line "VERSION PATH" for each supported Python found, but for VERSION.
# The oldest and the newest come first, should there be no time for all.
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

# is_whole VENV: its install was finished, for this folder and for the PYTHON asked for.
is_whole() {
    [ -x "$1/bin/python" ] && [ -r "$1/made" ] || return 1
    { IFS= read -r made_for && IFS= read -r made_with; } < "$1/made" || return 1
    [ "$made_for" = "$root" ] && { [ -z "${PYTHON-}" ] || [ "$PYTHON" = "$made_with" ]; }
}

# is_current VENV: is_whole, and no source changed since. Folders count too: they change when a file goes.
# Change time, not modification time: a file copied over another may carry an old one.
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

# stage_sources FOLDER: copy what the distribution is built from. A build in the source tree would leave
# build/lib behind, and the next build would pack modules that are gone.
stage_sources() {
    rm -rf "$1"
    mkdir -p "$1"
    for source in $sources; do
        [ ! -e "$root/$source" ] || cp -R "$root/$source" "$1/"
    done
    find "$1" -name __pycache__ -type d -prune -exec rm -rf {} +
}

# in_venv VENV WORD...: run python in it, and in its log; end with the log's last lines if it fails.
in_venv() {
    venv=$1
    shift
    "$venv/bin/python" -I "$@" >> "$venv.log" 2>&1 && return
    tail -n 8 "$venv.log" >&2
    fail "installing into $venv failed; all of it is in $venv.log"
}

# ensure_venv VENV [test|others]: on return it holds the package as the sources are now, with `test` also what
# tests need, with `others` what they need on another than the default Python. One at a time: who comes
# second waits, and finds the work done.
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

bring_up_to_date() {
    : > "$1.log"
    if is_whole "$1"; then
        say "the sources changed: installing them again"
    else
        python=$(find_python) || exit 1
        say "making ${1#"$root"/} with $python (once; this can take a minute)"
        rm -rf "$1"
        "$python" -I -m venv "$1" >> "$1.log" 2>&1 || {
            tail -n 8 "$1.log" >&2
            fail "$python could not make a virtual environment"
        }
        # tensorboard asks for setuptools anyway; with it here, later installs build without a download.
        in_venv "$1" -m pip install --quiet --disable-pip-version-check --upgrade 'setuptools>=77'
    fi
    rm -f "$1/made"
    printf '%s\n%s\n' "$root" "${PYTHON-}" > "$1.making"
    stage_sources "$1.build"
    [ $# -eq 1 ] || install_lock "$1" "$2"
    in_venv "$1" -m pip install --quiet --disable-pip-version-check --no-build-isolation "$1.build"
    rm -rf "$1.build"
    mv "$1.making" "$1/made"
}

# install_lock VENV test|others: what the lock of its Python version names, exactly.
install_lock() {
    version=$("$1/bin/python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    lock=$root/requirements/test-$version.txt
    [ -r "$lock" ] || {
        say "there is no lock for Python $version: installing the newest of what the tests need"
        in_venv "$1" -m pip install --quiet --disable-pip-version-check -r "$root/requirements/test.in"
        return
    }
    unwanted='#'
    [ "$2" = test ] || unwanted=$(sed '/^#/d; s/.*/^&==/' "$root/requirements/default-only.txt")
    grep -v -i -e "$unwanted" "$lock" > "$1.lock.txt"
    cmp -s "$1.lock.txt" "$1/lock.txt" || {
        in_venv "$1" -m pip install --quiet --disable-pip-version-check --no-deps -r "$1.lock.txt"
        cp "$1.lock.txt" "$1/lock.txt"
    }
}
