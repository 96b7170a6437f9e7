#!/bin/sh
# Create the passwords, the token and the certificates of a cluster, once: docker/make-secrets.sh [FOLDER] [HOST...]
#
#   FOLDER   target (default: secrets beside this file); existing files are kept
#   HOST     names and addresses under which clients reach Redis, besides redis and localhost
#
# To renew Redis' certificate, delete redis-tls/tls.crt and run it again with the same hosts, then restart Redis: the
# authority stays, so clients need no new ca.crt.
#
# Writes redis-{cli,dispatcher,driver}-password, ray-token, grafana-password, redis-ca.key (only for
# the next certificate), and in redis-tls/ the authority's certificate and Redis' with its key.
# The folder is closed to other users; the files in it are not, for containers read them as users of their own.
# Needs openssl.
set -eu
umask 022 # whatever the caller's: containers read the files as users of their own
folder=${1:-$(dirname "$0")/secrets}
test $# -eq 0 || shift
mkdir -p "$folder"
chmod 700 "$folder"
mkdir -p "$folder/redis-tls"

for name in redis-cli-password redis-dispatcher-password redis-driver-password ray-token grafana-password; do
  test -s "$folder/$name" || openssl rand -hex 32 > "$folder/$name"
  chmod 644 "$folder/$name" # an earlier run may have had another umask
done
chmod 755 "$folder/redis-tls"

cd "$folder/redis-tls"
test ! -s tls.crt || exit 0
names=DNS:redis,DNS:localhost,IP:127.0.0.1
for host in "$@"; do
  case $host in
    *[!0-9.]*) names=$names,DNS:$host ;;
    *) names=$names,IP:$host ;;
  esac
done
printf '%s\n' "subjectAltName=$names" > ../names
if test -s ca.crt && test ! -s ../redis-ca.key; then
  echo "make-secrets.sh: $folder/redis-ca.key is missing, so ca.crt cannot sign another certificate;" \
    "restore it, or delete ca.crt for a new authority, which all clients need" >&2
  exit 1
fi
test -s ca.crt || (umask 077 && openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=bertjobs authority" \
  -addext keyUsage=critical,keyCertSign,cRLSign -keyout ../redis-ca.key -out ca.crt 2> /dev/null)
chmod 644 ca.crt
openssl req -newkey rsa:3072 -nodes -subj /CN=redis -keyout tls.key -out ../request 2> /dev/null
openssl x509 -req -in ../request -CA ca.crt -CAkey ../redis-ca.key -CAcreateserial -CAserial ../serial \
  -days 825 -extfile ../names -out tls.crt 2> /dev/null
chmod 644 tls.key
rm -f ../request ../names ../serial
