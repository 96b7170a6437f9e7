#!/bin/sh
# Write the access list from the password files, then become redis-server; arguments go to it.
#
#   REDIS_SECRETS   folder with redis-cli-password, redis-dispatcher-password, redis-driver-password
#   REDIS_CONFIG    folder with redis.conf and users.acl
#   REDIS_RUN       folder for the access list, best in memory
#   REDIS_DATA      folder of the append-only file
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

exec redis-server "$config/redis.conf" --aclfile "$run/users.acl" --dir "$data" "$@"
