#!/usr/bin/env bash
# Speed, beside etcd, in one run on one machine: both with three replicas on this disk, fsync before
# acknowledgement, and the same closed-loop client (rangedb-cli bench) over the same gRPC library.
# Both clusters are up all the time and idle while the other one is measured. Figures are medians of
# alternating rounds.
#   RANGEDB_BENCH_ROUNDS=3 RANGEDB_BENCH_SECONDS=5 RANGEDB_BENCH_CLIENTS="1 64 256"
#   RANGEDB_BENCH_VALUE=256 RANGEDB_BENCH_DIR=<a folder that is emptied>
#   RANGEDB_BENCH_SPLIT_BY_LOAD=no|yes
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/lib.sh
. "$here/lib.sh"

rounds=${RANGEDB_BENCH_ROUNDS:-3}
seconds=${RANGEDB_BENCH_SECONDS:-5}
client_counts=${RANGEDB_BENCH_CLIENTS:-1 64 256}
value_bytes=${RANGEDB_BENCH_VALUE:-256}
split_by_load=${RANGEDB_BENCH_SPLIT_BY_LOAD:-no}
work=${RANGEDB_BENCH_DIR:-$repository/data/bench}
export RANGEDB_CLUSTER_DIR=$work/rangedb
export RANGEDB_CLUSTER_PORT_OFFSET=${RANGEDB_CLUSTER_PORT_OFFSET:-12000}
results=$work/results.tsv

# --- the peer -------------------------------------------------------------------------------------
find_etcd() {
    command -v etcd >/dev/null && return
    command -v apt-get >/dev/null || return 1
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=(sudo)
    fi
    say "bench: installing etcd-server with apt"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-server </dev/null >&2
    command -v etcd >/dev/null
}

etcd_peers=m1=http://127.0.0.1:20381,m2=http://127.0.0.1:20383,m3=http://127.0.0.1:20385
etcd_endpoints=127.0.0.1:20380,127.0.0.1:20382,127.0.0.1:20384
start_etcd() {
    mkdir -p "$work/etcd"
    local member client peer
    for member in 1 2 3; do
        client=$((20378 + 2 * member)) peer=$((20379 + 2 * member))
        launch "$work/etcd" "m$member" etcd --name "m$member" --data-dir "$work/etcd/m$member" \
            --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
            --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
            --initial-cluster "$etcd_peers" --initial-cluster-token rangedb-bench --log-level error
    done
    wait_for 30 etcd_serves || die "etcd does not serve; see $work/etcd/m1.log"
}
etcd_serves() {
    cli bench put --target etcd --endpoints "$etcd_endpoints" --clients 1 --seconds 0.2 --warmup 0.1 >/dev/null 2>&1
}
etcd_pids() { for member in 1 2 3; do pid_of "$work/etcd" "m$member" || true; done; }

stop_all() {
    "$here/cluster.sh" stop || true
    for member in 1 2 3; do end_process "$work/etcd" "m$member" TERM 10 || true; done
}

# --- one measurement ------------------------------------------------------------------------------
# Our processes by kind, then etcd's: CPU seconds of each.
cpu_now() {
    local kind
    for kind in placement node gateway; do
        # shellcheck disable=SC2046
        cpu_seconds $("$here/cluster.sh" pids "$kind")
        echo
    done
    # shellcheck disable=SC2046
    cpu_seconds $(etcd_pids)
    echo
}

measure() { # ROUND TARGET API OPERATION CLIENTS
    local target=$2 api=$3 operation=$4 clients=$5 endpoints before after json
    endpoints=$([ "$target" = etcd ] && echo "$etcd_endpoints" || echo "$gateways")
    local no_fill=()
    [ "$operation" = put ] || no_fill=(--no-fill)
    mapfile -t before < <(cpu_now)
    json=$(cli --output json --endpoints "$endpoints" bench "$operation" --target "$target" --api "$api" \
        --clients "$clients" --seconds "$seconds" --warmup 1 --value-size "$value_bytes" "${no_fill[@]}") ||
        die "bench $operation of $target over $api with $clients clients failed"
    mapfile -t after < <(cpu_now)
    local cpu=() i
    for i in 0 1 2 3; do
        cpu+=("$(awk -v a="${before[$i]}" -v b="${after[$i]}" 'BEGIN { printf "%.2f", b - a }')")
    done
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$operation" "$clients" "$target" "$api" \
        "$(json_field ops_per_second <<<"$json")" "$(json_field p50 <<<"$json")" "$(json_field p99 <<<"$json")" \
        "$(json_field errors <<<"$json")" "${cpu[@]}" "$(json_field client_cpu_seconds <<<"$json")" >>"$results"
    say "round $1: $operation, $clients clients, $target $api: $(json_field ops_per_second <<<"$json") ops/s"
}

build
case $work in "" | /) die "RANGEDB_BENCH_DIR must be a folder of its own" ;; esac
if [ -d "$work" ]; then stop_all 2>/dev/null; fi
rm -rf "$work/rangedb" "$work/etcd" "$results"
mkdir -p "$work"
with_etcd=yes
find_etcd || with_etcd=no
[ "$with_etcd" = yes ] || say "bench: etcd cannot be installed here; RangeDB is measured alone"
trap stop_all EXIT
"$here/cluster.sh" start >&2
gateways=$("$here/cluster.sh" addresses gateway)
# One range, as etcd has one group of members. Splits by load spread it over the nodes, which pays
# where each has processors and a disk of its own, and costs here, where all share them.
if [ "$split_by_load" = no ]; then
    for setting in range_split_requests_per_second=0 range_split_bytes_per_second=0B; do
        cli --endpoints "$gateways" admin config set "${setting%%=*}" "${setting#*=}" >/dev/null
    done
fi
[ "$with_etcd" = no ] || start_etcd

# Every key is written once, so that reads find it and their rounds need not write.
fill() { # TARGET ENDPOINTS
    cli --endpoints "$2" bench get --target "$1" --clients 64 --seconds 0.1 --warmup 0.1 \
        --value-size "$value_bytes" >/dev/null || die "the keys could not be written to $1"
}
fill rangedb "$gateways"
[ "$with_etcd" = no ] || fill etcd "$etcd_endpoints"

for round in $(seq "$rounds"); do
    for clients in $client_counts; do
        for operation in put get; do
            measure "$round" rangedb unary "$operation" "$clients"
            [ "$with_etcd" = no ] || measure "$round" etcd unary "$operation" "$clients"
            measure "$round" rangedb stream "$operation" "$clients"
        done
    done
done

# --- the table ------------------------------------------------------------------------------------
echo
echo "$(nproc) cores for servers and clients; replication 3, fsync before acknowledgement; $value_bytes B values;"
echo "splits by load: $split_by_load; medians of $rounds rounds of $seconds s; ops/s, p50 and p99 in ms; ratio to etcd's unary calls"
echo
awk -F '\t' '
function median(list,   n, i, j, t, v) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
{
    row = $2 " " $3; column = $4 " " $5
    if (!(row in seen)) { seen[row] = 1; rows[++count] = row }
    key = row SUBSEP column
    ops[key] = ops[key] " " $6; p50[key] = p50[key] " " $7; p99[key] = p99[key] " " $8
    errors[key] += $9
    # CPU: placement, node, gateway, etcd, client, for 100,000 operations. That of servers has the
    # second of warm-up in it, that of the client has not.
    for (i = 0; i < 5; i++) cpu[key, i] = cpu[key, i] " " ($6 > 0 ? $(10 + i) / ($6 * (seconds + (i < 4))) * 100000 : 0)
}
END {
    split("rangedb unary,etcd unary,rangedb stream", columns, ",")
    printf "%-4s %7s  %-15s %10s %8s %8s %7s %7s\n", "what", "clients", "over", "ops/s", "p50", "p99", "ratio", "errors"
    for (r = 1; r <= count; r++) for (c = 1; c <= 3; c++) {
        key = rows[r] SUBSEP columns[c]
        if (!(key in ops)) continue
        split(rows[r], name, " ")
        base = (rows[r] SUBSEP "etcd unary") in ops ? median(ops[rows[r] SUBSEP "etcd unary"]) : 0
        ratio = base > 0 && columns[c] != "etcd unary" ? sprintf("%.2f", median(ops[key]) / base) : "-"
        printf "%-4s %7s  %-15s %10.0f %8.2f %8.2f %7s %7d\n", name[1], name[2], columns[c], median(ops[key]), \
            median(p50[key]) / 1000, median(p99[key]) / 1000, ratio, errors[key]
    }
    printf "\nCPU seconds for 100,000 operations\n"
    printf "%-4s %7s  %-15s %10s %10s %10s %10s %10s\n", "what", "clients", "over", "placement", "nodes", "gateways", "etcd", "client"
    for (r = 1; r <= count; r++) for (c = 1; c <= 3; c++) {
        key = rows[r] SUBSEP columns[c]
        if (!(key in ops)) continue
        split(rows[r], name, " ")
        printf "%-4s %7s  %-15s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name[1], name[2], columns[c], \
            median(cpu[key, 0]), median(cpu[key, 1]), median(cpu[key, 2]), median(cpu[key, 3]), median(cpu[key, 4])
    }
}' seconds="$seconds" "$results"
echo
echo "every measurement: $results"
