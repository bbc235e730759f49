#!/usr/bin/env bash
# Makes stand-ins for the images' base images where no image registry can be reached: from Debian's packages, for podman.
set -euo pipefail

BUILD_BASE=localhost/dermserve-debian:12
BASE=localhost/dermserve-python3-debian12:latest
MODELS_BASE=localhost/dermserve-busybox:latest
KUBECTL_BASE=localhost/dermserve-kubectl:latest
# What gcr.io/distroless/python3-debian12 consists of.
PACKAGES=(base-files ca-certificates libbz2-1.0 libc6 libcom-err2 libcrypt1 libdb5.3 libexpat1 libffi8 libgcc-s1 libgomp1
    libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 liblzma5 libncursesw6 libnsl2
    libpython3.11-minimal libpython3.11-stdlib libreadline8 libsqlite3-0 libssl3 libstdc++6 libtinfo6 libtirpc3 libuuid1
    netbase python3.11-minimal python3-distutils tzdata zlib1g)

[[ ${1:-} == --help || ${1:-} == -h ]] && {
    cat <<TEXT
usage: make images DOCKER=podman BUILD_ARGS="\$(scripts/podman_bases.sh)"

As root, on Debian 12, with podman and debootstrap. Imports, where they are not there yet, $BUILD_BASE
(for debian:12-slim), $BASE (for gcr.io/distroless/python3-debian12),
$MODELS_BASE (for busybox) and $KUBECTL_BASE (this machine's kubectl), and prints the
options that build on them.
TEXT
    exit 0
}

unpack() { # packages into a folder
    local folder=$1
    shift
    mkdir -p "$folder" debs
    chmod 777 debs . # apt-get downloads as a user of its own
    rm -f debs/*
    (cd debs && apt-get download -qq "$@")
    for package in debs/*.deb; do dpkg-deb -x "$package" "$folder"; done
}

import() { tar -C "$1" -c . | podman import --quiet - "$2" >/dev/null; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
if ! podman image exists "$BUILD_BASE"; then
    debootstrap --variant=minbase bookworm root >debootstrap.log || { tail -n 5 debootstrap.log >&2; exit 1; }
    rm -f root/var/cache/apt/archives/*.deb
    # Where the network inspects TLS, this machine knows its authority, and builds must: ca-certificates takes it along.
    mkdir -p root/usr/local/share/ca-certificates
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t root/usr/local/share/ca-certificates {} +
    import root "$BUILD_BASE"
fi
if ! podman image exists "$BASE"; then
    unpack python "${PACKAGES[@]}"
    ln -sf python3.11 python/usr/bin/python3
    mkdir -p python/tmp python/etc && chmod 1777 python/tmp
    printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >python/etc/passwd
    rm -rf python/usr/share/doc python/usr/share/man
    import python "$BASE"
fi
if ! podman image exists "$MODELS_BASE"; then
    unpack busybox busybox-static
    for applet in $(busybox/bin/busybox --list); do
        [[ $applet == busybox ]] || ln -s busybox "busybox/bin/$applet"
    done
    rm -rf busybox/usr
    import busybox "$MODELS_BASE"
fi
if ! podman image exists "$KUBECTL_BASE"; then
    mkdir -p kubectl/bin && cp -L "$(command -v kubectl)" kubectl/bin/
    import kubectl "$KUBECTL_BASE"
fi
podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep ^localhost/dermserve- >&2
# Containers can't be given more than this shell has, and podman would by default.
files=$(ulimit -Hn) processes=$(ulimit -Hu) most=$(</proc/sys/kernel/pid_max)
[[ $files == unlimited ]] && files=1048576
if [[ $processes == unlimited || $processes -gt $most ]]; then processes=$most; fi
echo "--network=host --ulimit=nofile=$files:$files --ulimit=nproc=$processes:$processes" \
    "--build-arg=BUILD_BASE=$BUILD_BASE --build-arg=PYTHON_BASE=$BASE --build-arg=MODELS_BASE=$MODELS_BASE" \
    "--build-arg=KUBECTL_BASE=$KUBECTL_BASE"
