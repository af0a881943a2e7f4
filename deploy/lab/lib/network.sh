# Three bridges in the lab's own network namespace: 0 is the machines' ordinary network (ssh, rfs), 1 and 2 are the storage
# networks. This machine's side of bridge 0 carries the addresses of the master and of the client.
network_up() {
  local n
  ip link set lo up
  for n in 0 1 2; do
    ip link add "br$n" type bridge
    ip link set "br$n" up
  done
  ip address add 10.3.0.10/24 dev br0
  ip address add 10.3.0.20/24 dev br0
}

network_number() { # GUEST: the last byte of its addresses
  case $1 in sto*) echo "${1#sto}" ;; chunk*) echo $((100 + ${1#chunk})) ;; esac
}

# A cut link says nothing: what is sent on it is lost, as behind a switch that died.
link_cut() { ip link set "$1-$2" down; }
link_back() { ip link set "$1-$2" up; }
network_cut() { ip link set "br$1" down; }
network_back() { ip link set "br$1" up; }
