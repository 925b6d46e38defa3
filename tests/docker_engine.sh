#!/usr/bin/env bash
# `make docker-test`: the tests of tests/docker, on a Docker engine that is there or is started here.
#
# Says what it installs (as root: docker.io, docker-compose, debootstrap), and only what is missing.
# An engine of its own keeps everything below PGRAIN_DOCKER (default /var/tmp/pgrain-docker) and is
# stopped at the end; images stay there for the next time. Where no registry has the base image,
# debootstrap makes one of Debian's packages; where pip's index cannot be reached from inside a build,
# the wheels that this machine's pip finds are handed in (docker/wheels/). With PGRAIN_GPU=1 the image
# for NVIDIA's cards is built and tried too: 3 GB of wheels, some 20 GB of room.
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
place=${PGRAIN_DOCKER:-/var/tmp/pgrain-docker}
release=${PGRAIN_RELEASE:-trixie}          # Debian 13; bookworm (12) with PGRAIN_MAJOR=15
python=$tree/.local/venv/bin/python
say() { echo "docker-test: $*"; }

need() {   # program, package
    command -v "$1" >/dev/null && return
    (( EUID == 0 )) || { say "$1 is missing; install the package $2" >&2; exit 1; }
    say "installing the package $2"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

need docker docker.io
docker compose version >/dev/null 2>&1 || need docker-compose docker-compose

if ! docker version >/dev/null 2>&1; then
    (( EUID == 0 )) || { say "no Docker engine answers, and only root can start one" >&2; exit 1; }
    need dockerd docker.io
    mkdir -p "$place"
    export DOCKER_HOST=unix://$place/docker.sock
    if ! docker version >/dev/null 2>&1; then
        say "starting an engine of its own, below $place"
        # Plain layers where overlays are not to be had (inside a container, say); they are slow.
        driver=vfs
        mkdir -p "$place/probe/a" "$place/probe/b" "$place/probe/c" "$place/probe/d"
        if mount -t overlay overlay -o "lowerdir=$place/probe/a,upperdir=$place/probe/b,workdir=$place/probe/c" \
                "$place/probe/d" 2>/dev/null; then
            umount "$place/probe/d"
            driver=overlay2
        fi
        rm -rf "$place/probe"
        dockerd --storage-driver="$driver" --iptables=false --data-root "$place/data-$driver" \
            --exec-root "$place/exec" --pidfile "$place/pid" -H "$DOCKER_HOST" \
            >"$place/log" 2>&1 &
        engine=$!
        trap 'kill "$engine"; wait "$engine" || true' EXIT
        for _ in $(seq 60); do docker version >/dev/null 2>&1 && break; sleep 1; done
        docker version >/dev/null || { tail "$place/log" >&2; exit 1; }
    fi
fi

export PGRAIN_BASE=${PGRAIN_BASE:-debian:13-slim}
if ! docker image inspect "$PGRAIN_BASE" >/dev/null 2>&1 \
        && ! docker pull --quiet "$PGRAIN_BASE" >/dev/null 2>&1; then
    PGRAIN_BASE=pgrain-base:$release
    if ! docker image inspect "$PGRAIN_BASE" >/dev/null 2>&1; then
        need debootstrap debootstrap
        say "no registry has the base image; debootstrap makes one ($release)"
        mkdir -p "$place"
        folder=$(mktemp -d "$place/base.XXXXXX")
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 2>/dev/null \
            | grep -v security | head -n 1 || true)
        debootstrap --variant=minbase "$release" "$folder" ${mirror:+"$mirror"} >"$place/debootstrap"
        rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
        tar -C "$folder" -c . | docker import - "$PGRAIN_BASE" >/dev/null
        rm -rf "$folder"
    fi
fi

# Wheels for the Python of the base image, through this machine's pip: the libraries, and what builds the
# package itself (the images build it from this tree). Fetched again when pyproject.toml has changed.
wheels=$tree/docker/wheels
wanted="$release $(uname -m) ${PGRAIN_GPU:+gpu }$(sha256sum <"$tree/pyproject.toml")"
if [[ $(cat "$wheels/fetched" 2>/dev/null) != "$wanted" ]]; then
    case $release in bookworm) version=3.11 ;; *) version=3.13 ;; esac
    say "fetching wheels for Python $version into docker/wheels"
    rm -f "$wheels"/*.whl
    (cd "$tree" && "$python" docker/requirements.py worker,metrics,demo) >"$wheels/needed"
    [[ -z ${PGRAIN_GPU:-} ]] || sed -n "s/^ *JAX: //p" "$tree/docker/compose.gpu.yaml" >>"$wheels/needed"
    if "$python" -m pip download -q -q --only-binary=:all: --python-version "$version" \
            --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_27_$(uname -m)" \
            --platform "manylinux_2_17_$(uname -m)" --platform "manylinux2014_$(uname -m)" \
            -d "$wheels" -r "$wheels/needed" 'hatchling>=1.25'; then
        echo "$wanted" >"$wheels/fetched"
    else
        say "pip found no such wheels; the build asks the index itself"
    fi
fi

cd "$tree"
"$python" -m pytest -q -p no:cacheprovider tests/docker "$@"
