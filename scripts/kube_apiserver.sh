#!/usr/bin/env bash
# Builds kube-apiserver from the Go module proxy, once, and puts etcd and kubectl beside it: the layout that envtest
# calls KUBEBUILDER_ASSETS.
set -euo pipefail

VERSION=v1.33.13 # within one minor version of kubectl 1.32

usage() {
    cat <<END
usage: scripts/kube_apiserver.sh [FOLDER]

Makes FOLDER (default: ${XDG_CACHE_HOME:-$HOME/.cache}/dermserve/kubebuilder/$VERSION) hold kube-apiserver $VERSION,
etcd and kubectl, and prints its name. What is there already is kept. The build needs Go 1.24 or later and 3 GB of disk,
and takes half an hour or so on one core. etcd comes from the PATH, or from apt-get where this runs as root.

    export KUBEBUILDER_ASSETS=\$(scripts/kube_apiserver.sh)
END
}

say() { echo "kube_apiserver.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

build() {
    local source=$1 target=$2 started=$SECONDS gomod info=k8s.io/component-base/version
    command -v go >/dev/null || fail "there is no Go: install 1.24 or later, or set KUBEBUILDER_ASSETS to envtest's binaries"
    mkdir -p "$source"
    cd "$source"
    say "fetching k8s.io/kubernetes $VERSION"
    # The published module replaces its staging modules (k8s.io/api, …) by folders that it does not hold; they are
    # published beside it, as v0.MINOR.PATCH.
    gomod=$(go mod download -json "k8s.io/kubernetes@$VERSION" | sed -n 's/.*"GoMod": "\(.*\)",*/\1/p')
    {
        printf 'module apiserver\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$VERSION"
        sed -n 's|^[[:space:]]*\(k8s.io/[a-z-]*\) => ./staging.*|\t\1 => \1 v0.'"${VERSION#v1.}"'|p' "$gomod"
        printf ')\n'
    } >go.mod
    say "building kube-apiserver $VERSION: some 1500 packages, and not a word until they are done"
    GOFLAGS=-mod=mod CGO_ENABLED=0 nice -n 10 go build -trimpath -o "$target.partial" -ldflags "-s -w \
        -X $info.gitVersion=$VERSION -X $info.gitMajor=1 -X $info.gitMinor=$(cut -d. -f2 <<<"$VERSION") \
        -X $info.gitTreeState=clean" k8s.io/kubernetes/cmd/kube-apiserver
    mv "$target.partial" "$target"
    say "built in $((SECONDS - started)) s"
}

bring() { # a binary of this name from the PATH
    local found
    found=$(command -v "$1") || return 1
    ln -sf "$found" "$assets/$1"
}

case ${1:-} in
-h | --help) usage; exit 0 ;;
-*) usage >&2; exit 2 ;;
esac
assets=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/dermserve/kubebuilder/$VERSION}
mkdir -p "$assets"
assets=$(cd "$assets" && pwd)
bring kubectl || fail "there is no kubectl: install 1.32 or later (Debian's own kubernetes-client is too old)"
if ! bring etcd; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then fail "there is no etcd: install it (Debian: etcd-server)"; fi
    say "installing etcd-server"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends etcd-server; } >&2
    bring etcd
fi
[[ -x $assets/kube-apiserver ]] || (build "$assets/source" "$assets/kube-apiserver")
echo "$assets"
