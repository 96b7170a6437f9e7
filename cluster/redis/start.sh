#!/bin/sh
# Write the access list from the password files, then become redis-server; arguments go to it.
#
#   REDIS_SECRETS   folder with redis-cli-password, redis-dispatcher-password, redis-driver-password
#   REDIS_CONFIG    folder with redis.conf and users.acl
#   REDIS_RUN       folder for the access list, best in memory
#   REDIS_DATA      folder of the append-only file
#
# A file restore.tar.gz in REDIS_DATA, as backup.sh writes it, takes the place of the queue; what was there is kept beside it.
set -eu
umask 077
secrets=${REDIS_SECRETS:-/run/secrets}
config=${REDIS_CONFIG:-/etc/bertjobs/redis}
run=${REDIS_RUN:-/run/redis}
data=${REDIS_DATA:-/data}

hash_of() {
  password=$(cat "$secrets/redis-$1-password") # without the newline at the end, as the clients read it
  test -n "$password" || { echo "start.sh: redis-$1-password is empty" >&2; exit 1; }
  printf %s "$password" | sha256sum | cut -d' ' -f1
}

# Assigned one by one, so that a missing file ends the script.
cli=$(hash_of cli)
dispatcher=$(hash_of dispatcher)
driver=$(hash_of driver)

# Comments go, continued lines are joined, hashes are filled in.
sed -e '/^#/d' -e '/^$/d' -e ':join' -e '/\\$/N; s/\\\n */ /; t join' "$config/users.acl" |
  sed -e "s/@cli@/$cli/" -e "s/@dispatcher@/$dispatcher/" -e "s/@driver@/$driver/" |
  tr -s ' ' > "$run/users.acl"

if test -e "$data/restore.tar.gz"; then
  rm -rf "$data/restoring" && mkdir "$data/restoring"
  if ! tar -C "$data/restoring" -xzf "$data/restore.tar.gz"; then
    echo "start.sh: $data/restore.tar.gz is not whole, so Redis is not started; replace or remove it" >&2
    exit 1
  fi
  kept=$data/before-restore-$(date +%Y%m%dT%H%M%S)
  mkdir "$kept"
  for name in appendonlydir appendonly.aof; do
    test ! -e "$data/$name" || mv "$data/$name" "$kept/"
  done
  mv "$data/restoring"/* "$data/"
  rmdir "$data/restoring"
  mv "$data/restore.tar.gz" "$kept/restored.tar.gz"
  echo "start.sh: the queue of restore.tar.gz is restored; the one before is in $kept" >&2
fi

exec redis-server "$config/redis.conf" --aclfile "$run/users.acl" --dir "$data" "$@"
