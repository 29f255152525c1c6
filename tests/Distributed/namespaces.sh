#!/usr/bin/env bash
# Runs a program in several processes on two hosts: network namespaces of this machine with their own addresses, which a virtual cable connects. The
# processes share no memory, so that all bytes go over the cable, and the last lines say how many.
#   tests/Distributed/namespaces.sh PROCESSES COMMAND...   PROCESSES in total, the first half on host 0
# It needs root, ip (iproute2) and mpiexec.hydra (mpich). Where that is not permitted, it says why and ends with exit code 77.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
processes=$1
shift
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null || skip "ip is not installed (Debian: apt-get install iproute2)"
command -v mpiexec.hydra >/dev/null || skip "mpiexec.hydra is not installed (Debian: apt-get install mpich)"

# Each run has its own names and addresses, so that several can run at the same time.
name=osn$$
network=10.$((64 + $$ / 250 % 128)).$(($$ % 250))
folder=$(mktemp -d)
cleanup() {
  for host in 0 1; do
    ip netns pids "$name-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$name-$host" 2>/dev/null || true
  done
  rm -rf "$folder"
}
trap cleanup EXIT
ip netns add "$name-0" 2>"$folder/log" || skip "ip netns add: $(cat "$folder/log")"
ip netns add "$name-1"
ip link add "$name-a" type veth peer name "$name-b" 2>"$folder/log" || skip "ip link add: $(cat "$folder/log")"
ip link set "$name-a" netns "$name-0" name eth0
ip link set "$name-b" netns "$name-1" name eth0
for host in 0 1; do
  ip -n "$name-$host" address add "$network.$((host + 1))/24" dev eth0
  ip -n "$name-$host" link set eth0 up
  ip -n "$name-$host" link set lo up
done

# mpiexec calls this instead of ssh, with options, the address of a host, and a command.
cat >"$folder/enter" <<EOF
#!/usr/bin/env bash
while [[ \$1 == -* ]]; do shift; done
case \$1 in
  $network.1) host=0 ;;
  $network.2) host=1 ;;
  *) echo "unknown host \$1" >&2; exit 1 ;;
esac
shift
exec ip netns exec $name-\$host unshare --uts bash -c "hostname host\$host; \$*"
EOF
chmod +x "$folder/enter"

sent() { ip netns exec "$name-$1" cat /sys/class/net/eth0/statistics/tx_bytes; }
before0=$(sent 0) before1=$(sent 1)
code=0
# The transports of UCX that use shared memory are off; MPICH's own is off with NOLOCAL. Variables are inherited by both hosts.
UCX_TLS=tcp UCX_NET_DEVICES=eth0 UCX_WARN_UNUSED_ENV_VARS=n MPIR_CVAR_NOLOCAL=1 MPIR_CVAR_CH3_NOLOCAL=1 \
  MASTER_ADDR=$network.1 MASTER_PORT=29500 \
  ip netns exec "$name-0" unshare --uts bash -c 'hostname host0; exec "$@"' bash \
  mpiexec.hydra -launcher ssh -launcher-exec "$folder/enter" -localhost "$network.1" \
  ${MPIEXEC_ARGUMENTS:-} -hosts "$network.1:$(((processes + 1) / 2)),$network.2:$((processes / 2))" -np "$processes" "$@" || code=$?
echo "bytes from host 0: $(($(sent 0) - before0))"
echo "bytes from host 1: $(($(sent 1) - before1))"
exit "$code"
