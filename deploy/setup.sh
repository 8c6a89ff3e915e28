#!/usr/bin/env bash
# Installs what a build (and with "test", a test run) needs and this machine lacks. Says nothing
# and takes a moment when nothing is missing. Knows apt (Debian, Ubuntu); elsewhere it says what
# to install.
set -euo pipefail
purpose=${1:-build}

die() {
    echo "setup: $*" >&2
    exit 1
}

command -v cargo >/dev/null 2>&1 ||
    die "no Rust toolchain found; install rustup and run this again"

# bindgen (for RocksDB) opens libclang at build time and needs clang's own headers beside it.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep 'libclang[-.0-9]*\.so' >/dev/null && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}
have_clang_headers() {
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null ||
        compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null
}

missing=()
command -v g++ >/dev/null 2>&1 || missing+=(g++)
command -v git >/dev/null 2>&1 || missing+=(git)
need_clang=no
have_libclang && have_clang_headers || need_clang=yes

if [ ${#missing[@]} -gt 0 ] || [ "$need_clang" = yes ]; then
    command -v apt-get >/dev/null 2>&1 ||
        die "please install a C++ compiler, libclang with its headers, and git (here is no apt)"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            die "packages are missing (${missing[*]:-libclang}); run 'make setup' as root once"
        as_root=(sudo)
    fi
    apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null; }
    echo "setup: installing what is missing with apt" >&2
    apt update -qq
    if [ "$need_clang" = yes ]; then
        # 14 is what this is built with every day; else the newest there is.
        version=$(apt-cache pkgnames libclang1- | sed -n 's/^libclang1-\([0-9][0-9]*\)$/\1/p' | sort -n |
            awk '$1 == 14 { found = 1 } { newest = $1 } END { print found ? 14 : newest }')
        [ -n "$version" ] || die "apt knows no libclang1 package; add your distribution's main archive"
        missing+=("libclang1-$version" "libclang-common-$version-dev")
    fi
    apt install -y -qq --no-install-recommends "${missing[@]}" >&2
    # A compiler cache is welcome and never needed.
    if ! command -v sccache >/dev/null 2>&1 && apt-cache show sccache >/dev/null 2>&1; then
        apt install -y -qq --no-install-recommends sccache >&2 || true
    fi
fi

if [ "$purpose" = test ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: installing cargo-nextest" >&2
    cargo install --locked cargo-nextest </dev/null >&2 ||
        echo "setup: cargo-nextest could not be installed; cargo test will do" >&2
fi
