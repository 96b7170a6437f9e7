#!/bin/sh
# Write a copy of the queue to standard output while Redis runs: sh backup.sh > queue.tar.gz
#
#   REDIS_DATA   folder of the append-only file, as for start.sh
#
# Files of the append-only log only grow, until a rewrite replaces them by others with other names. So links to all files
# that its manifest names are the queue of one moment. A server of its own loads the copy before it is written: a copy that
# cannot be loaded is an error. Takes as much memory again as Redis has, and as much disk. To restore: see start.sh.
set -eu
umask 077
data=${REDIS_DATA:-/data}
work=$data/.backup-$$
server=
finish() {
  test -z "$server" || kill "$server" 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# Fails where a rewrite has replaced a file since the manifest was read.
link_files() {
  rm -rf "$work"
  mkdir -p "$work/links/appendonlydir"
  if test -d "$data/appendonlydir"; then # from Redis 7.0 on
    manifest=appendonlydir/appendonly.aof.manifest
    grep -v ' type h' "$data/$manifest" > "$work/links/$manifest" || return 1 # without files that are no longer used
    for name in $(cut -d' ' -f2 "$work/links/$manifest"); do
      ln "$data/appendonlydir/$name" "$work/links/appendonlydir/$name" 2> /dev/null || return 1
    done
  else
    ln "$data/appendonly.aof" "$work/links/appendonly.aof"
  fi
}

tries=0
until link_files; do
  tries=$((tries + 1))
  test $tries -lt 10 || { echo "backup.sh: $data has no append-only file, or is rewritten all the time" >&2; exit 1; }
  sleep 1
done
# A copy: the server below would write to the linked files, which are those of the queue.
cp -r "$work/links" "$work/copy"
rm -r "$work/links"

socket=$work/s
redis-server --port 0 --unixsocket "$socket" --dir "$work/copy" --appendonly yes --appendfsync no --save "" \
  --auto-aof-rewrite-percentage 0 > "$work/log" 2>&1 &
server=$!
until test "$(redis-cli -s "$socket" ping 2> /dev/null)" = PONG; do
  kill -0 "$server" 2> /dev/null || { echo "backup.sh: the copy cannot be loaded:" >&2; tail -n 5 "$work/log" >&2; exit 1; }
  sleep 0.2
done
num_keys=$(redis-cli -s "$socket" dbsize)
num_jobs=$(redis-cli -s "$socket" zcard bj:ids) || num_jobs=?
redis-cli -s "$socket" shutdown nosave > /dev/null 2>&1 || true
wait "$server" || true
server=

files=appendonlydir
test -d "$work/copy/$files" || files=appendonly.aof
tar -C "$work/copy" -czf - "$files"
echo "backup.sh: $num_jobs jobs, $num_keys keys; the copy was loaded" >&2
