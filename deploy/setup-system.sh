#!/bin/sh
# What `make setup` asks of the system beyond Python: a mosquitto broker; for the tests its clients, PostgreSQL 15,
# pgBackRest and Alertmanager.
# The embedded parts do without: PostgreSQL comes from a wheel, mosquitto is fetched into .factoryd/ where apt is at hand.
set -eu

say() { printf 'setup: %s\n' "$1"; }

missing=""
command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] || missing="mosquitto"
command -v mosquitto_sub >/dev/null 2>&1 || missing="$missing mosquitto-clients"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v pgbackrest >/dev/null 2>&1 || missing="$missing pgbackrest"
command -v prometheus-alertmanager >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  say "not found:$( [ -n "$missing" ] && printf ' %s' $missing ). On macOS: brew install mosquitto (tried by nobody yet)."
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  say "not found: $missing. The demo fetches mosquitto without root; for all tests: sudo apt-get install $missing"
  exit 0
fi
say "installing $missing with apt-get (no service is started, no cluster is made)"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
case "$missing" in *alertmanager*) [ ! -d /run/systemd/system ] || systemctl disable --quiet prometheus-alertmanager ;; esac
