#!/usr/bin/env bash
# Tries docs/install.md: runs its commands, in their order, in a scratch directory and on free ports.
#
# The page's paths and ports are replaced by scratch ones. What would change the machine (apt-get, systemctl, useradd, sudo) is a
# function below: systemctl starts the real programs as plain processes. Needs PostgreSQL and mosquitto installed, and pip's index.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/try-install.XXXXXX")
chmod 0755 "$scratch"
broker_pid="" daemon_pid="" postgres_dir=""

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
devices_port=$(free_port) internal_port=$(free_port) database_port=$(free_port) http_port=$(free_port)

as_postgres() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

clean_up() {
  status=$?
  [ -z "$daemon_pid" ] || kill "$daemon_pid" 2>/dev/null || true
  [ -z "$broker_pid" ] || kill "$broker_pid" 2>/dev/null || true
  wait
  [ -z "$postgres_dir" ] || as_postgres "$postgres_bin/pg_ctl" -D "$postgres_dir" -m immediate stop >/dev/null 2>&1 || true
  if [ "$status" -ne 0 ]; then
    for log in "$scratch"/*.log; do [ ! -e "$log" ] || { echo "--- $log"; tail -n 20 "$log"; }; done
  fi
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT

# --- What Debian's packages would have set up ---------------------------------------------------------------------------------
postgres_bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
mkdir -p "$scratch"/{run,data,etc/mosquitto,var/lib/mosquitto,usr/local/bin,etc/systemd/system}
if [ "$(id -u)" -eq 0 ]; then
  chown postgres: "$scratch/run" "$scratch/data"
  chown mosquitto: "$scratch/var/lib/mosquitto"
fi
as_postgres "$postgres_bin/initdb" -D "$scratch/data" -U postgres --auth-local=trust --auth-host=scram-sha-256 >"$scratch/initdb.log"
as_postgres "$postgres_bin/pg_ctl" -D "$scratch/data" -l "$scratch/data/server.log" -w start \
  -o "-p $database_port -k $scratch/run -c listen_addresses=127.0.0.1" >/dev/null
postgres_dir="$scratch/data"

# --- What would change the machine --------------------------------------------------------------------------------------------
apt-get() { echo "(left out) apt-get $*"; }
useradd() { echo "(left out) useradd $*"; }
sudo() { shift 2; "$@"; }
chown() { if [ "$(id -u)" -eq 0 ]; then command chown "$@"; fi; }

wait_for() { # wait_for SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "never came true: $*"; return 1; }
    sleep 0.1
  done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start_broker() {
  [ -z "$broker_pid" ] || { kill "$broker_pid"; wait "$broker_pid" || true; }
  PATH="$PATH:/usr/sbin" mosquitto -c "$scratch/etc/mosquitto/mosquitto.conf" >>"$scratch/broker.log" 2>&1 &
  broker_pid=$!
  wait_for 10 listens "$internal_port"
}

start_daemon() {
  [ -z "$daemon_pid" ] || { kill "$daemon_pid"; wait "$daemon_pid"; }
  "$scratch/opt/factoryd/bin/factoryd" --config "$scratch/etc/factoryd/factoryd.toml" run >>"$scratch/daemon.log" 2>&1 &
  daemon_pid=$!
  wait_for 20 curl -sf "http://127.0.0.1:$http_port/readyz"
}

systemctl() {
  case "$*" in
    "restart mosquitto") start_broker ;;
    "reload mosquitto") kill -HUP "$broker_pid"; sleep 0.5 ;;
    "enable --now factoryd" | "restart factoryd") start_daemon ;;
    "daemon-reload") verify_unit ;;
    *) echo "this script knows no systemctl $*"; return 1 ;;
  esac
}

verify_unit() {
  if command -v systemd-analyze >/dev/null 2>&1; then
    systemd-analyze verify "$scratch/etc/systemd/system/factoryd.service"
    echo "systemd-analyze verify: good"
  else
    echo "(left out) systemd-analyze is not here"
  fi
}

if ! command -v mosquitto_pub >/dev/null 2>&1; then
  # The same by aiomqtt: mosquitto-clients is not on this machine.
  mosquitto_pub() {
    "$scratch/opt/factoryd/bin/python" - "$@" <<'PYTHON'
import argparse, asyncio, sys
import aiomqtt
parser = argparse.ArgumentParser(add_help=False)
for option in "VhpuPqtm":
    parser.add_argument(f"-{option}")
given = parser.parse_args(sys.argv[1:])
async def main() -> None:
    async with aiomqtt.Client(given.h, int(given.p), username=given.u, password=given.P, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.publish(given.t, given.m, qos=int(given.q))
asyncio.run(main())
PYTHON
  }
fi

# --- The page -----------------------------------------------------------------------------------------------------------------
# A copy of the source: building leaves files behind. The settings are found in the current directory, not in /etc.
mkdir "$scratch/source"
tar -C "$source_dir" --exclude=./.venv --exclude=./.git --exclude='./.*_cache' --exclude=./.factoryd --exclude=./build -cf - . |
  tar -C "$scratch/source" -xf -
cd "$scratch/source"
ln -s "$scratch/etc/factoryd/factoryd.toml" factoryd.toml
sed -i -e "s|^listener 1883|listener $devices_port 127.0.0.1|" -e "s|^listener 1884|listener $internal_port|" \
  -e "s|/etc/mosquitto|$scratch/etc/mosquitto|" -e "s|/var/lib/mosquitto|$scratch/var/lib/mosquitto|" mosquitto.conf
sed -i -e "s|/opt/factoryd|$scratch/opt/factoryd|g" deploy/factoryd.service
export PATH="$scratch/usr/local/bin:$PATH" FACTORYD_HTTP__PORT="$http_port"
unset FACTORYD_DATABASE__URL FACTORYD_DATABASE__OWNER_URL FACTORYD_MQTT__URL

commands=$(awk '/^```sh$/ { inside = 1; next } /^```/ { inside = 0 } inside' docs/install.md | sed \
  -e "s|/opt/factoryd|$scratch/opt/factoryd|g" -e "s|/usr/local/bin|$scratch/usr/local/bin|g" \
  -e "s|/etc/|$scratch/etc/|g" -e "s|/var/run/postgresql|$scratch/run|g" \
  -e "s|localhost:5432|localhost:$database_port|g" -e "s|127.0.0.1:1884|127.0.0.1:$internal_port|g" \
  -e "s|-p 1883|-p $devices_port|g" -e "s|127.0.0.1:9464|127.0.0.1:$http_port|g")
echo "$commands" >"$scratch/commands.sh"

set -o errtrace -o functrace
trap 'echo "try-install: failed at: $BASH_COMMAND"' ERR
show() { # only what stands on the page: not what functions, subshells and substitutions do
  [ "${FUNCNAME[1]:-}" != source ] || [ "$BASH_SUBSHELL" -ne 0 ] || printf '\n$ %s\n' "${1//"$scratch"/}" >&9
}
exec 9>&1
trap 'show "$BASH_COMMAND"' DEBUG
# shellcheck source=/dev/null
. "$scratch/commands.sh"
trap - DEBUG

# --- What must be true now ----------------------------------------------------------------------------------------------------
rows=$(psql "$DATABASE_TOOLS_URL" -Atc "SELECT count(*) FROM sensor_readings WHERE temperature = 71.2")
[ "$rows" = 1 ] || { echo "try-install: expected one reading, found $rows"; exit 1; }
echo
echo "try-install: every command of docs/install.md did its work"
