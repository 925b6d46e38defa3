#!/usr/bin/env bash
# The suite on another release of Debian: its PostgreSQL, its Python, in a folder of its own.
#
#   tests/in_chroot.sh trixie                      everything, as `make test` does
#   tests/in_chroot.sh trixie tests/unit -k wire   arguments for pytest
#   tests/in_chroot.sh trixie --shell              a shell in there
#
# Needs root, and debootstrap (package debootstrap) the first time. Debian 12 (bookworm) has
# PostgreSQL 15, Debian 13 (trixie) 17. The first run downloads about 1 GB, later ones nothing.
#
#   PGRAIN_CHROOT        the folder of the chroot (default /var/tmp/pgrain-chroot/<release>)
#   PGRAIN_CHROOT_MIRROR a Debian mirror (default: the one that apt here uses, else debootstrap's)
#   PGRAIN_CHROOT_BIND   more folders of this machine to show in there, read-only (a pip index, say)
#
# The working tree is seen as /pgrain, with a .local of the chroot's own. Mounts and processes are of
# this run alone and go with it; what was installed stays in the folder.
set -euo pipefail

usage() { sed -n 's/^# \{0,1\}//; 4,6p' "$0"; exit 2; }
release=${1:-}
[[ $release =~ ^[a-z]+$ ]] || usage
shift
(( EUID == 0 )) || { echo "in_chroot: this needs root" >&2; exit 1; }
if [[ -z ${_PGRAIN_UNSHARED:-} ]]; then
    _PGRAIN_UNSHARED=1 exec unshare --mount --propagation private --pid --fork --kill-child \
        bash "$(readlink -f "$0")" "$release" "$@"
fi
unset _PGRAIN_UNSHARED

tree=$(cd "$(dirname "$0")/.." && pwd)
root=${PGRAIN_CHROOT:-/var/tmp/pgrain-chroot/$release}

# --- once: the base system --------------------------------------------------------------------------
if [[ ! -e $root/.pgrain-base ]]; then
    if [[ ! -x $root/bin/sh || -d $root/debootstrap ]]; then
        command -v debootstrap >/dev/null || {
            echo "in_chroot: debootstrap is missing; install the package debootstrap" >&2; exit 1; }
        mirror=${PGRAIN_CHROOT_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
            'Origin: Debian' 2>/dev/null | grep -v security | head -n 1 || true)}
        mkdir -p "$root"
        debootstrap --variant=minbase --include=ca-certificates,make,python3-venv \
            "$release" "$root" ${mirror:+"$mirror"}
    fi
    # No service starts in there, and no cluster of Debian's own is made.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/etc/postgresql-common" "$root/pgrain" "$root/var/lib/pgrain-local"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
    touch "$root/.pgrain-base"
fi

# --- each time: what the run sees -------------------------------------------------------------------
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$tree" "$root/pgrain"
mkdir -p "$tree/.local"
mount --bind "$root/var/lib/pgrain-local" "$root/pgrain/.local"
for folder in ${PGRAIN_CHROOT_BIND:-}; do
    mkdir -p "$root$folder"
    mount --rbind -o ro "$folder" "$root$folder"
done
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"          # this machine's own name, by which processes meet
if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi

# Nothing of this machine's environment but what the tests and the download of packages read.
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
             LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" PYTHONPYCACHEPREFIX=/var/cache/pgrain
             HYPOTHESIS_STORAGE_DIRECTORY=/var/cache/pgrain-hypothesis)
while IFS= read -r name; do
    [[ $name == PGRAIN_CHROOT* ]] || environment+=("$name=${!name}")
done < <(compgen -e | grep -E '^(PGRAIN_|PYTEST_|PIP_INDEX_URL$|PIP_DEFAULT_TIMEOUT$|CI$|(http|https|no)_proxy$|(HTTP|HTTPS|NO)_PROXY$)')
inside() { chroot "$root" /usr/bin/env -i -C /pgrain "${environment[@]}" "$@"; }

if [[ ${1:-} == --shell ]]; then
    shift
    inside bash "$@"
    exit
fi
inside python3 python/pgrain/cli/bootstrap.py --demo
inside make --no-print-directory install
status=0
inside .local/venv/bin/python -m pytest -q -p no:cacheprovider "$@" || status=$?
exit "$status"
