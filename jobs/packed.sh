#!/bin/sh
# An environment in one file, for jobs on many hosts: each reads the file once, in place of some thousand small ones
# a rank (docs/clusters.md#the-environment-on-many-hosts).
#   sh jobs/packed.sh pack .venv qafel.tar                once
#   sh jobs/packed.sh unpack qafel.tar /tmp/qafel         once a host; where /tmp/qafel is there already, nothing is done
# The environment must hold the package itself, which an editable installation does not. Its Python's own library is not
# packed: that lies where it lay.
set -eu
fail() {
    echo "packed.sh: $1" >&2
    exit 2
}

pack() { # VENV FILE
    [ -x "$1/bin/python" ] || fail "$1: no virtual environment: it has no bin/python"
    venv=$(cd "$1" && pwd -P)
    where=$(cd / && "$venv/bin/python" -c 'import os, qafel_mpi; print(os.path.realpath(qafel_mpi.__file__))') ||
        fail "$1 has no qafel_mpi"
    case $where in
        "$venv"/*) ;;
        *) fail "$1 has qafel_mpi only by reference to $where: put it in, with \`$1/bin/pip install --no-deps .\`" ;;
    esac
    echo "$venv" >"$venv/packed-from"
    tar -C "$venv" -cf "$2.part" . && mv "$2.part" "$2" || fail "$2 could not be written"
    rm "$venv/packed-from"
}

unpack() { # FILE VENV: scripts get the new place into their first lines
    [ ! -e "$2" ] || return 0
    part=$2.$$.part
    trap 'rm -rf "$part"' EXIT
    mkdir -p "$part" && tar -C "$part" -xf "$1" || fail "$1 could not be unpacked into $part on $(hostname)"
    [ -f "$part/packed-from" ] || fail "$1 is no archive of packed.sh"
    old=$(cat "$part/packed-from")
    grep -rlIF "$old" "$part/bin" "$part/pyvenv.cfg" | while read -r file; do
        sed -i "s|$old|$2|g" "$file"
    done
    mv -T "$part" "$2" 2>/dev/null || [ -e "$2" ] || fail "$2 could not be made on $(hostname)" # else another was first
}

case $#${1:-} in
    3pack) pack "$2" "$3" ;;
    3unpack)
        case $3 in
            /*) unpack "$2" "$3" ;;
            *) fail "$3: not an absolute path" ;;
        esac
        ;;
    *) fail "pack VENV FILE, or unpack FILE VENV" ;;
esac
