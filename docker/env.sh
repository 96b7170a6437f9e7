# The environment of a user of the cluster in compose.yaml, and of whoever starts it: . docker/env.sh
# Source it in the folder that contains docker/. The paths become absolute, so you can change the folder afterwards.
export BERTJOBS_REDIS_URL=rediss://localhost:6380/0
export BERTJOBS_REDIS_USER=cli
export BERTJOBS_REDIS_PASSWORD_FILE="$PWD/docker/secrets/redis-cli-password"
export BERTJOBS_REDIS_CA_FILE="$PWD/docker/secrets/redis-tls/ca.crt"
export BERTJOBS_RAY_ADDRESS=http://localhost:8265
export RAY_AUTH_TOKEN_PATH="$PWD/docker/secrets/ray-token"
export BERTJOBS_STORAGE="${BERTJOBS_STORAGE:-/srv/bertjobs}"
# For `docker compose`: the CPUs of each of the two workers. With more workers, give each its share yourself.
export WORKER_CPUS="${WORKER_CPUS:-$(cpus=$(getconf _NPROCESSORS_ONLN); echo $((cpus > 1 ? cpus / 2 : 1)))}"
