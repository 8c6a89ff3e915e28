#!/usr/bin/env bash
# A cluster of separate processes on loopback: 3 placement members, 3 storage nodes, 2 gateways.
#   cluster.sh [start]          build, start what does not run, wait until it serves, print addresses
#   cluster.sh status           what runs
#   cluster.sh kill NAME        SIGKILL one process, for example node-2
#   cluster.sh restart NAME     end one process, if it runs, and start it again
#   cluster.sh stop             end everything; data stays
# Data, logs and pids are in ./data/cluster, or RANGEDB_CLUSTER_DIR. RANGEDB_CLUSTER_PORT_OFFSET is
# added to every port.
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=${RANGEDB_CLUSTER_DIR:-$repository/data/cluster}
offset=${RANGEDB_CLUSTER_PORT_OFFSET:-0}
names=(placement-1 placement-2 placement-3 node-1 node-2 node-3 gateway-1 gateway-2)

# gRPC ports; HTTP is one below, as in the defaults.
port() { # NAME
    local kind=${1%-*} number=${1##*-} base
    case $kind in
        placement) base=8281 ;;
        node) base=8181 ;;
        gateway) base=8081 ;;
    esac
    echo $((base + 2 * (number - 1) + offset))
}
http_port() { echo $(($(port "$1") - 1)); }
address() { echo "127.0.0.1:$(port "$1")"; }

placement_addresses=$(address placement-1),$(address placement-2),$(address placement-3)

run() { # NAME
    local name=$1 kind=${1%-*} number=${1##*-}
    local common=(--listen "$(address "$name")" --http-listen "127.0.0.1:$(http_port "$name")" --log-format json)
    # Our own variables are for this script, not for the servers.
    local clean=(env -u RANGEDB_BIN_DIR -u RANGEDB_CLUSTER_DIR -u RANGEDB_CLUSTER_PORT_OFFSET)
    case $kind in
        placement)
            launch "$folder" "$name" "${clean[@]}" "$binaries/rangedb-placement" --id "$number" \
                --data-dir "$folder/$name" "${common[@]}" \
                --peers "1=$(address placement-1),2=$(address placement-2),3=$(address placement-3)"
            ;;
        node)
            launch "$folder" "$name" "${clean[@]}" "$binaries/rangedb-storage-node" \
                --data-dir "$folder/$name" "${common[@]}" --placement "$placement_addresses"
            ;;
        gateway)
            launch "$folder" "$name" "${clean[@]}" "$binaries/rangedb-gateway" \
                "${common[@]}" --placement "$placement_addresses"
            ;;
    esac
}

known() { # NAME
    local name
    for name in "${names[@]}"; do [ "$name" = "${1:-}" ] && return; done
    die "no process ${1:-without a name}; there are: ${names[*]}"
}

# Ready, or dead: both end the wait.
settled() { ready "$(http_port "$1")" || gone "$folder" "$1"; }

await_ready() { # NAME
    wait_for 60 settled "$1" || die "$1 is not ready after 60 s; see $folder/$1.log"
    if gone "$folder" "$1"; then
        die "$1 ended: $(tail -n 1 "$folder/$1.log")"
    fi
}

# All three voters of every range are there, so that one node may fail.
replicated() {
    local ranges
    ranges=$(cli --endpoints "$(address gateway-1)" --output json admin ranges list 2>/dev/null) || return 1
    [ "$(grep -o '"range_id"' <<<"$ranges" | wc -l)" -gt 0 ] || return 1
    [ "$(grep -o '"role":"voter"' <<<"$ranges" | wc -l)" -eq $((3 * $(grep -o '"range_id"' <<<"$ranges" | wc -l))) ]
}

start() {
    build
    mkdir -p "$folder"
    local name
    for name in "${names[@]}"; do run "$name"; done
    for name in "${names[@]}"; do await_ready "$name"; done
    wait_for 60 replicated || die "ranges do not reach three replicas; see 'rangedb-cli admin cluster status'"
    show
    echo "gateways: $(address gateway-1) $(address gateway-2)"
    echo "data, logs and pids: $folder"
    echo "to end it: deploy/cluster.sh stop"
}

show() {
    local name pid
    for name in "${names[@]}"; do
        pid=$(pid_of "$folder" "$name") || pid=-
        printf '%-12s grpc=%-16s http=%-16s %s\n' "$name" "$(address "$name")" "127.0.0.1:$(http_port "$name")" \
            "$([ "$pid" = - ] && echo stopped || echo "pid $pid")"
    done
}

stop() {
    local name
    # Gateways first, then nodes, then placement; each kind at once.
    for kind in gateway node placement; do
        for name in "${names[@]}"; do
            [ "${name%-*}" = "$kind" ] || continue
            if pid=$(pid_of "$folder" "$name"); then kill -TERM "$pid" 2>/dev/null || true; fi
        done
        for name in "${names[@]}"; do
            [ "${name%-*}" = "$kind" ] || continue
            wait_for 12 gone "$folder" "$name" || {
                say "$name did not stop within 12 s, it is killed"
                end_process "$folder" "$name" KILL 5
            }
            rm -f "$folder/$name.pid"
        done
    done
}

case ${1:-start} in
    start) start ;;
    stop) stop ;;
    status) show ;;
    kill)
        known "${2:-}"
        end_process "$folder" "$2" KILL 5
        ;;
    restart)
        known "${2:-}"
        end_process "$folder" "$2" TERM 12 || end_process "$folder" "$2" KILL 5
        run "$2"
        await_ready "$2"
        ;;
    pids) # of one kind, for measurements
        for name in "${names[@]}"; do
            if [ "${name%-*}" = "${2:-}" ]; then pid_of "$folder" "$name"; fi
        done
        ;;
    addresses) # of one kind
        list=()
        for name in "${names[@]}"; do
            if [ "${name%-*}" = "${2:-}" ]; then list+=("$(address "$name")"); fi
        done
        (IFS=, && echo "${list[*]}")
        ;;
    *) die "unknown: $1; start, stop, status, kill NAME, restart NAME" ;;
esac
