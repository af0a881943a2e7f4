#!/usr/bin/python3
# Ansible module: records and sessions of open-iscsi, one for each pair of target and portal.
#
# Records are made without discovery, as the inventory names every target and portal: a portal that is away is then still
# known, and logged in to when it returns. Sessions are looked up in /sys, so that an unchanged machine costs no iscsiadm.
import glob
import os
import time

from ansible.module_utils.basic import AnsibleModule


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def sessions():
    """Pairs (target, portal address) that are logged in."""
    found = set()
    for connection in glob.glob("/sys/class/iscsi_connection/connection*"):
        number = os.path.basename(connection)[len("connection") :].split(":")[0]
        target = read("/sys/class/iscsi_session/session%s/targetname" % number)
        found.add((target, read(connection + "/persistent_address")))
    return found


class Nodes:
    def __init__(self, module):
        self.module = module
        self.port = module.params["port"]
        self.changes = []

    def iscsiadm(self, node, *arguments, **options):
        target, portal = node
        command = ["iscsiadm", "-m", "node", "-T", target, "-p", "%s:%d" % (portal, self.port)]
        return self.module.run_command(command + list(arguments), **options)

    def settings(self, node):
        """The record's settings, from the file in which open-iscsi keeps it; None if there is no record."""
        for root in ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes"):
            for path in glob.glob("%s/%s/%s,%d,*/*" % (root, glob.escape(node[0]), node[1], self.port)) + glob.glob(
                "%s/%s/%s,%d" % (root, glob.escape(node[0]), node[1], self.port)
            ):
                if os.path.isfile(path):
                    lines = (line.split(" = ", 1) for line in read(path).splitlines() if " = " in line)
                    return dict(lines)
        return None

    def record(self, node, wanted):
        there = self.settings(node)
        if there is None:
            self.changes.append("record %s at %s" % node)
            if self.module.check_mode:
                return
            self.iscsiadm(node, "-o", "new", check_rc=True)
            there = self.settings(node) or {}
        for name, value in sorted(wanted.items()):
            if there.get(name) != str(value):
                self.changes.append("%s of %s at %s" % (name, node[0], node[1]))
                if not self.module.check_mode:
                    self.iscsiadm(node, "-o", "update", "-n", name, "-v", str(value), check_rc=True)

    def login(self, node, deadline):
        if node in sessions():
            return
        self.changes.append("session %s at %s" % node)
        if self.module.check_mode:
            return
        while True:
            status, _, error = self.iscsiadm(node, "--login")
            if status in (0, 15):  # 15: there already
                return
            if time.monotonic() > deadline:
                self.module.fail_json(msg="%s does not let us in at %s: %s" % (node[0], node[1], error.strip()), changes=self.changes)
            time.sleep(2)


def main():
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "list", "elements": "dict", "required": True},
            "port": {"type": "int", "default": 3260},
            "wait": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    nodes = Nodes(module)
    deadline = time.monotonic() + module.params["wait"]
    for wanted in module.params["nodes"]:
        nodes.record((wanted["target"], wanted["portal"]), wanted.get("settings") or {})
    for wanted in module.params["nodes"]:
        nodes.login((wanted["target"], wanted["portal"]), deadline)
    module.exit_json(changed=bool(nodes.changes), changes=nodes.changes)


main()
