# Shared by the scripts beside it; sourced, never run.
# Owns: finding binaries, starting and ending processes by pid files, waiting for readiness.
# Invariant: only processes that were started here are ever signalled.
# shellcheck shell=bash

# Folder of the repository.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binaries=${RANGEDB_BIN_DIR:-${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-$repository/target}}/release}
servers=(rangedb-placement rangedb-storage-node rangedb-gateway)

say() { echo "$*" >&2; }
die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Builds the release binaries, unless RANGEDB_BIN_DIR says where others are.
build() {
    if [ -n "${RANGEDB_BIN_DIR:-}" ]; then
        local binary
        for binary in "${servers[@]}" rangedb-cli; do
            [ -x "$binaries/$binary" ] || die "no $binary in RANGEDB_BIN_DIR=$binaries"
        done
        return
    fi
    (cd "$repository" && "${CARGO:-cargo}" build --release --locked --bins \
        -p rangedb-placement -p rangedb-storage-node -p rangedb-gateway -p rangedb-cli </dev/null)
}

# The command-line client, with no endpoints or settings of the caller's shell.
cli() { env -u RANGEDB_ENDPOINTS -u RANGEDB_OUTPUT "$binaries/rangedb-cli" "$@"; }

# The start time of a process, which tells it from a later one with the same pid.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# The pid of a process that was started here and still runs; fails if there is none.
pid_of() { # FOLDER NAME
    local pid start
    { read -r pid start <"$1/$2.pid"; } 2>/dev/null || return 1
    [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] || return 1
    echo "$pid"
}

# Starts a process in the background, with its own log, and notes who it is.
launch() { # FOLDER NAME COMMAND…
    local folder=$1 name=$2 pid
    shift 2
    if pid_of "$folder" "$name" >/dev/null; then return; fi
    # A session of its own: Ctrl-C at the script does not reach it.
    setsid "$@" >>"$folder/$name.log" 2>&1 </dev/null &
    pid=$!
    disown "$pid"
    # setsid replaces itself by the command, so the pid stays.
    echo "$pid $(started_at "$pid")" >"$folder/$name.pid"
}

# Signals a process and waits until it is gone.
end_process() { # FOLDER NAME SIGNAL SECONDS
    local pid
    pid=$(pid_of "$1" "$2") || return 0
    kill "-$3" "$pid" 2>/dev/null || true
    wait_for "$4" gone "$1" "$2" || return 1
    rm -f "$1/$2.pid"
}

gone() { ! pid_of "$1" "$2" >/dev/null; }

# Waits until a command succeeds.
wait_for() { # SECONDS COMMAND…
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# True if GET http://127.0.0.1:PORT/health/ready says 200. Bash's own sockets: no curl needed.
ready() { # PORT
    local line
    { exec 9<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&9
    read -r -t 2 line <&9 || line=
    exec 9>&- 9<&-
    [[ $line == *' 200 '* ]]
}

# CPU seconds that processes have used so far, together.
cpu_seconds() { # PID…
    local pid ticks=0 fields
    for pid in "$@"; do
        fields=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) || continue
        # shellcheck disable=SC2086
        set -- $fields
        ticks=$((ticks + ${12} + ${13}))
    done
    awk -v ticks="$ticks" -v per_second="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", ticks / per_second }'
}

# One field of a JSON document on stdin: a number, a string or true/false; the first of that name.
json_field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }
