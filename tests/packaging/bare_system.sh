#!/usr/bin/env bash
# tests/packaging/bare_system.sh [MAKE-TARGET...] (default: demo test): the README's promise on a bare system. Makes a
# Debian of this host's release in a temporary directory, with nothing but apt, python3, git and make, clones the last
# commit into it and runs the targets there. Needs root and debootstrap; takes the mirrors from the host's apt sources and
# hands over its certificates and pip configuration. KEEP=1 keeps the directory.
set -euo pipefail
if ((EUID != 0)); then
    echo "bare_system.sh needs root: it bootstraps a system and enters it by chroot" >&2
    exit 1
fi
if [[ ${BARE_SYSTEM_INSIDE:-} != 1 ]]; then
    # Mounts live in a namespace of their own: they are gone with this process, however it ends.
    BARE_SYSTEM_INSIDE=1 exec unshare --mount --propagation private -- "$0" "$@"
fi
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
targets=("$@")
((${#targets[@]})) || targets=(demo test)

work=$(mktemp -d "${TMPDIR:-/tmp}/vmthaw-bare-XXXXXX")
root=$work/system
mounts=()
finish() {
    local index
    for ((index = ${#mounts[@]} - 1; index >= 0; index--)); do
        umount --lazy "${mounts[index]}" || true
    done
    [[ ${KEEP:-} == 1 ]] || rm -rf --one-file-system "$work"
}
trap finish EXIT
mount_at() { # TARGET MOUNT-ARGUMENTS...
    mkdir -p "$1"
    mount "${@:2}" "$1"
    mounts+=("$1")
}

# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list || true; } 2>/dev/null |
    sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' | head -1)
echo "bare system: $codename in $root"
debootstrap --variant=minbase --include=ca-certificates,git,make,python3 "$codename" "$root" "$mirror" >"$work/debootstrap.log" || {
    tail -20 "$work/debootstrap.log" >&2
    exit 1
}

# The way to the registries is the host's: apt sources and proxies, certificates, pip's configuration, name resolution.
rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/sources.list "$root/etc/apt/" 2>/dev/null || true
find /etc/apt/sources.list.d -maxdepth 1 \( -name 'debian.sources' -o -name 'ubuntu.sources' \) \
    -exec cp {} "$root/etc/apt/sources.list.d/" \;
apt-config dump | grep -E '^Acquire::(http|https)::' >"$root/etc/apt/apt.conf.d/90host" || true
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    [[ -e $file ]] && cp -L "$file" "$root$file"
done
mapfile -t environment < <(env | grep -E '^(PIP_|[a-z]+_proxy=|[A-Z]+_PROXY=|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=)' || true)
if [[ -d ${PIP_FIND_LINKS:-} ]]; then
    mount_at "$root$PIP_FIND_LINKS" --bind "$PIP_FIND_LINKS"
fi

mount_at "$root/proc" -t proc proc
mount_at "$root/sys" --rbind /sys
mount_at "$root/dev" --rbind /dev
mount_at "$root/tmp" -t tmpfs tmpfs

git clone --quiet --no-hardlinks "$repository" "$root/srv/vmthaw"
for target in "${targets[@]}"; do
    echo "bare system: make $target"
    start=$SECONDS
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/tmp LANG=C.UTF-8 CI="${CI:-}" "${environment[@]}" \
        make -C /srv/vmthaw "$target"
    echo "bare system: make $target took $((SECONDS - start)) s"
done
