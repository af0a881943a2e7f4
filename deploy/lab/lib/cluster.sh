# The host side: the master, a client's mount, and Ansible.
rfs_mount=$LAB_RUN/mnt
export RFS_MASTER=10.3.0.10

# Of two chunk machines one is left when the other goes, and a write of goal 2 waits for a second copy: the small lab lets it go on with one.
cluster_master() {
  local copies_min=2
  [ "$LAB_SIZE" = full ] || copies_min=1
  [ -d "$LAB_RUN/master" ] || "$LAB_PROGRAMS/mfs-master" init "$LAB_RUN/master" --goal 2 >>"$LAB_LOGS/master.log" 2>&1
  "$LAB_PROGRAMS/mfs-master" -o data="$LAB_RUN/master" -o copies_min="$copies_min" >>"$LAB_LOGS/master.log" 2>&1 &
  echo $! >"$LAB_RUN/master.pid"
}

cluster_mount() {
  mkdir -p "$rfs_mount"
  "$LAB_PROGRAMS/mount-rfs" -o "log_file=$LAB_LOGS/mount.log" 10.3.0.10:/ "$rfs_mount"
}

# The clusters' power with the guests': master and mount die as they are.
cluster_power_cut() {
  local guest
  for guest in "${guests[@]}"; do kill -KILL "$(cat "$LAB_RUN/$guest.pid")" & done
  kill -KILL "$(cat "$LAB_RUN/master.pid")" 2>/dev/null || true
  wait "$(cat "$LAB_RUN/master.pid")" 2>/dev/null || true
  pkill -KILL -f "log_file=$LAB_LOGS/mount.log" || true # sees only the processes of the lab's namespace
  sleep 1
  umount -l "$rfs_mount" 2>/dev/null || true
}

cluster_healthy() { # SECONDS: whether everything is fully replicated within them
  "$LAB_PROGRAMS/rfs" status --wait "${1}s" >>"$LAB_LOGS/status.log" 2>&1
}

playbook() { # LOG [options]
  local log=$1
  shift
  ANSIBLE_CONFIG=$LAB_DEPLOY/ansible/ansible.cfg ANSIBLE_LOCAL_TEMP=$LAB_RUN/ansible ANSIBLE_HOME=$LAB_RUN/ansible \
    ANSIBLE_GATHERING=smart ANSIBLE_CACHE_PLUGIN=jsonfile ANSIBLE_CACHE_PLUGIN_CONNECTION=$LAB_CACHE/facts ANSIBLE_CACHE_PLUGIN_TIMEOUT=0 \
    ANSIBLE_SSH_CONTROL_PATH_DIR=$LAB_RUN/cp ANSIBLE_FORCE_COLOR=0 ANSIBLE_TIMEOUT=120 \
    ansible-playbook -i "$LAB_DEPLOY/ansible/inventory/lab.yml" --limit "$(IFS=,; echo "${guests[*]}")" \
    -e "rfs_programs=$LAB_PROGRAMS" -e "{\"lab_storage\": $(json_list "${storage[@]}"), \"lab_chunks\": $(json_list "${chunks[@]}")}" \
    -e "iscsi_chap=${LAB_CHAP:-0}" "$@" "$LAB_DEPLOY/ansible/site.yml" >"$log" 2>&1
}

json_list() { printf '"%s",' "$@" | sed 's/^/[/; s/,$/]/'; }

provision() { # NAME: the parts that need the running machines
  playbook "$LAB_LOGS/ansible-$1.log" --tags run --private-key "$LAB_CACHE/ssh/key" || {
    say "Ansible failed:"; grep -aE -A4 'fatal|FAILED|ERROR' "$LAB_LOGS/ansible-$1.log" | head -40; return 1
  }
}
