# What the machines of run_in_vm are made of, out of Debian packages that are unpacked below $cache and never installed.
# Sourced. Downloads go through an apt state of our own beside the system's: no root, no foreign architecture, no change of
# the system. Wants $cache (a folder), $box (its part for one architecture), $deb (Debian's name of that), $machine, say, die.

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# Backports: Linux 6.1 has neither KVM_EXIT_MEMORY_FAULT nor UFFDIO_POISON. QEMU 7.2 loads a nested guest's DR7 without arming
# it, so that no hardware breakpoint and no watchpoint ever fires; on aarch64 a guest sometimes runs code of an earlier one.
suite=$codename
[[ $codename != bookworm ]] || suite=bookworm-backports

apt_state=$cache/apt
apt_options=(
    -qq -o "Dir::State=$apt_state/state" -o "Dir::State::status=$apt_state/status" -o "Dir::Cache=$apt_state/cache"
    -o "Dir::Etc::SourceList=$apt_state/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::PreferencesParts=/dev/null -o APT::Architectures::=amd64 -o APT::Architectures::=arm64
    -o APT::Sandbox::User= -o Acquire::Languages=none
)
apt_is_ready=

update_apt() {
    [[ -z $apt_is_ready ]] || return 0
    local mirror # that of this system; who published what is known after an update alone
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -1)
    [[ -n $mirror ]] || die 'apt knows no mirror of Debian: run `apt-get update` (the machines are made of its packages)'
    mkdir -p "$apt_state/state/lists/partial" "$apt_state/cache/archives/partial"
    : >"$apt_state/status"
    printf "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror %s main\n" \
        $(printf '%s\n' "$codename" "$suite" | sort -u) >"$apt_state/sources.list"
    apt-get "${apt_options[@]}" update || die 'apt-get update failed'
    apt_is_ready=1
}

dependency_of() { # dependency_of SUITE PACKAGE PATTERN: what a metapackage points at today
    update_apt
    apt-cache "${apt_options[@]}" -t "$1" depends --important "$2" | sed -n "s/.*Depends: \($3\)\(:.*\)\{0,1\}\$/\1/p" | head -1
}

unpack() { # unpack FOLDER SUITE PACKAGE...: no script of theirs runs; the folder appears when it is whole
    local to=$1 from=$2 downloads package
    shift 2
    update_apt
    downloads=$(mktemp -d "$cache/get.XXXXXX")
    rm -rf "$to.new"
    mkdir -p "$to.new"
    (cd "$downloads" && apt-get "${apt_options[@]}" -t "$from" download "$@") || die "these could not be downloaded: $*"
    for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$to.new"; done
    rm -rf "$downloads" "$to"
    mv "$to.new" "$to"
}

fetch_kernel() {
    if [[ ! -d $box/kernel ]]; then
        local package
        package=$(dependency_of "$suite" "linux-image-$deb:$deb" 'linux-image-[0-9][^ :]*')
        [[ -n $package ]] || die "$suite has no kernel for $deb"
        say "fetching $package"
        unpack "$box/kernel" "$suite" "$package:$deb"
    fi
    [[ -d $box/busybox ]] || unpack "$box/busybox" "$codename" "busybox-static:$deb"
}

fetch_root() { # a root for aarch64: libraries and Python. Sets $root
    root=$box/root
    [[ ! -d $root ]] || return 0
    local python
    python=$(dependency_of "$codename" python3:arm64 'python3\.[0-9]*')
    [[ -n $python ]] || die "$codename has no Python for arm64"
    say "fetching a root for arm64, with $python"
    local packages=(
        "$python" "$python-minimal" "lib$python-minimal" "lib$python-stdlib" busybox-static libc6 libgcc-s1 libstdc++6
        zlib1g libexpat1 libssl3 libffi8 libsqlite3-0 libbz2-1.0 liblzma5 libuuid1 libncursesw6 libtinfo6 libreadline8
        libcrypt1
    )
    unpack "$root.unfinished" "$codename" "${packages[@]/%/:arm64}"
    ln -sf "$python" "$root.unfinished/usr/bin/python3"
    ln -sf /bin/busybox "$root.unfinished/bin/sh"
    ln -sf /bin/busybox "$root.unfinished/usr/bin/env"
    mkdir -p "$root.unfinished"/{proc,sys,dev,tmp,run,root}
    # Debian compiles when it installs; without that each import in the machine would compile the standard library again.
    ! command -v "$python" >/dev/null || "$python" -m compileall -q "$root.unfinished/usr/lib/$python" >/dev/null || true
    mv "$root.unfinished" "$root"
}

fetch_qemu() { # QEMU 10, if the installed one is older. Sets $qemu and $qemu_data. Wants $package, of the installed one
    qemu=$(command -v "qemu-system-$machine") qemu_data=()
    local major
    major=$("$qemu" --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
    ((major < 10)) || return 0
    if [[ ! -d $box/qemu ]]; then
        say 'fetching QEMU 10'
        unpack "$box/qemu" "$suite" {"$package",qemu-system-common}:amd64 qemu-system-data
    fi
    qemu=$box/qemu/usr/bin/qemu-system-$machine qemu_data=(-L "$box/qemu/usr/share/qemu" -L /usr/share/seabios)
    ! ldd "$qemu" | grep 'not found' || die "QEMU of $suite does not run with the libraries of the installed $package"
}

make_initramfs() { # make_initramfs INIT MODULE...: busybox, the modules in the order of loading, /init
    local init=$1 folder tree module
    shift
    initramfs=$box/initramfs.gz
    if [[ $initramfs -nt $init && $initramfs -nt ${BASH_SOURCE[0]} && $initramfs -nt $0 ]]; then return 0; fi
    tree=$(find "$box/kernel" -type d -path '*/lib/modules/*/kernel' | head -1)
    folder=$(mktemp -d "$cache/initramfs.XXXXXX")
    mkdir -p "$folder/bin" "$folder/modules"
    cp "$box/busybox/bin/busybox" "$folder/bin/"
    install -m 755 "$init" "$folder/init"
    declare -A added=()
    local count=100
    for module in "$@"; do add_module "$module"; done
    (cd "$folder" && find . | cpio -o -H newc --quiet | gzip -1) >"$initramfs.new"
    mv "$initramfs.new" "$initramfs"
    rm -rf "$folder"
}

add_module() { # what it depends on comes first; a name that is not found is built in. Uses make_initramfs' variables
    local name=${1//-/_} file dependency
    [[ -z ${added[$name]:-} ]] || return 0
    added[$name]=1
    file=$(find "$tree" -name "${name//_/[-_]}.ko*" | head -1)
    [[ -n $file ]] || return 0
    case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac >"$folder/$name.ko"
    for dependency in $(tr '\0' '\n' <"$folder/$name.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
        add_module "$dependency"
    done
    mv "$folder/$name.ko" "$folder/modules/$count-$name.ko"
    count=$((count + 1))
}
