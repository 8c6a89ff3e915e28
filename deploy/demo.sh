#!/usr/bin/env bash
# A real data set on a real cluster: every record of Debian's own package index is imported through
# one gateway while a storage node is killed and comes back, read back through the other gateway
# byte for byte, and the replicas of every range are compared. Ends with code 0 only if all is equal.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=deploy/lib.sh
. "$here/lib.sh"

work=${RANGEDB_DEMO_DIR:-$repository/data/demo}
index=$work/packages.deb822
state=$work/import-state
victim=node-2

command -v apt-cache >/dev/null || die "the data set is Debian's package index, and here is no apt-cache"
mkdir -p "$work"

apt-cache dumpavail >"$index"
if [ ! -s "$index" ]; then
    say "demo: the package index is empty, fetching it"
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq </dev/null
    apt-cache dumpavail >"$index"
fi
total=$(grep -c '^Package:' "$index") || die "no records in the package index; run apt-get update"
echo "data set: $total records, $(wc -c <"$index") bytes"

"$here/cluster.sh" start
IFS=, read -r first second <<<"$("$here/cluster.sh" addresses gateway)"

# The part of the import that is acknowledged stands in its state file.
acknowledged() { { json_field records <"$state"; } 2>/dev/null || true; }
half_done() { [ "$(acknowledged)" != "" ] && [ "$(acknowledged)" -ge $((total / 2)) ]; }
half_done_or_over() { half_done || ! kill -0 "$import" 2>/dev/null; }

rm -f "$state"
began=$(date +%s.%N)
# Not through the function: the pid must be that of the process itself.
env -u RANGEDB_ENDPOINTS -u RANGEDB_OUTPUT "$binaries/rangedb-cli" --endpoints "$first" --timeout 30s \
    import "$index" --resume-file "$state" &
import=$!
trap 'kill "$import" 2>/dev/null || true' EXIT
wait_for 600 half_done_or_over || die "half of the import is not done after 10 minutes"
kill -0 "$import" 2>/dev/null || die "the import ended before the node could be killed in its middle"
echo "killing $victim (SIGKILL) after $(acknowledged) acknowledged records"
"$here/cluster.sh" kill "$victim"
"$here/cluster.sh" restart "$victim"
echo "$victim is back"
wait "$import" || die "the import failed"
trap - EXIT
seconds=$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
echo "imported through $first in $seconds s, with a node killed in the middle"

cli --endpoints "$second" --timeout 30s import "$index" --verify ||
    die "what was read back through $second is not what was imported"
echo "read back through $second: $total records, equal byte for byte"

# A replica that was away may still be catching up.
equal() { cli --endpoints "$first" admin ranges verify --all >"$work/verify.txt" 2>&1; }
if ! wait_for 120 equal; then
    cat "$work/verify.txt"
    die "the replicas are not equal after 120 s"
fi
cat "$work/verify.txt"
cli --endpoints "$first" --output json admin ranges list >"$work/ranges.json"
replicas=$(grep -o '"replica_id"' "$work/ranges.json" | wc -l)
ranges=$(grep -o '"range_id"' "$work/ranges.json" | wc -l)
[ "$replicas" -ge $((3 * ranges)) ] || die "$ranges ranges have only $replicas replicas, not three each"
echo "all replicas of $ranges ranges hold the same ($replicas replicas)"
echo "the cluster goes on running; to end it: deploy/cluster.sh stop"
