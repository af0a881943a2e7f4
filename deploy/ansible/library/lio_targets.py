#!/usr/bin/python3
# Ansible module: iSCSI targets of the Linux kernel (LIO), one block device each, as targetcli makes them, and saved.
# It uses targetcli's own library in one process: each call of targetcli takes seconds on a slow machine.
#
# The LUN stands before the ACL of its initiator: an initiator that is let in earlier finds no disk and never looks again.
import os

from ansible.module_utils.basic import AnsibleModule


class Targets:
    """Brings the kernel's configuration to what is wanted, and notes what it had to change."""

    def __init__(self, module):
        import rtslib_fb

        self.lib = rtslib_fb
        self.module = module
        self.root = rtslib_fb.RTSRoot()
        self.changes = []

    def change(self, text, act):
        self.changes.append(text)
        return None if self.module.check_mode else act()

    def one(self, wanted, portals, port):
        lib = self.lib
        backstore = next((s for s in self.root.storage_objects if s.name == wanted["name"]), None)
        if backstore is None:
            backstore = self.change(
                "backstore " + wanted["name"],
                lambda: lib.BlockStorageObject(wanted["name"], dev=wanted["device"], wwn=wanted["serial"]),
            )
        elif backstore.wwn != wanted["serial"]:
            self.module.fail_json(
                msg="%s is exported with another serial (%s): its initiators know it by that. Set serials by hand or make it anew."
                % (wanted["name"], backstore.wwn)
            )
        target = next((t for t in self.root.targets if t.wwn == wanted["iqn"]), None)
        if target is None:
            target = self.change("target " + wanted["iqn"], lambda: lib.Target(lib.FabricModule("iscsi"), wanted["iqn"]))
        if target is None or backstore is None:
            return  # check mode, and nothing to look at
        group = lib.TPG(target, 1)
        self.group(group, wanted, backstore)
        self.portals(group, portals, port)
        if not group.enable:
            self.change("enable " + wanted["iqn"], lambda: setattr(group, "enable", True))

    def group(self, group, wanted, backstore):
        lib = self.lib
        if not any(lun.storage_object.name == wanted["name"] for lun in group.luns):
            self.change("LUN 0 of " + wanted["iqn"], lambda: lib.LUN(group, 0, backstore))
        attributes = {"authentication": "1" if wanted["chap_user"] else "0", "generate_node_acls": "0", "demo_mode_write_protect": "1"}
        for name, value in attributes.items():
            if group.get_attribute(name) != value:
                self.change(name + " of " + wanted["iqn"], lambda n=name, v=value: group.set_attribute(n, v))
        acl = next((a for a in group.node_acls if a.node_wwn == wanted["initiator"]), None)
        if acl is None:
            acl = self.change("ACL " + wanted["initiator"], lambda: lib.NodeACL(group, wanted["initiator"]))
        if acl is None:
            return
        if not list(acl.mapped_luns):
            self.change("LUN of " + wanted["initiator"], lambda: lib.MappedLUN(acl, 0, 0))
        if wanted["chap_user"]:
            if acl.chap_userid != wanted["chap_user"] or acl.chap_password != wanted["chap_password"]:

                def chap():
                    acl.chap_userid = wanted["chap_user"]
                    acl.chap_password = wanted["chap_password"]

                self.change("CHAP of " + wanted["initiator"], chap)

    def portals(self, group, portals, port):
        there = {(p.ip_address, p.port): p for p in group.network_portals}
        for address in portals:
            if (address, port) not in there:
                self.change("portal " + address, lambda a=address: self.lib.NetworkPortal(group, a, port))
        for (address, number), portal in there.items():
            if address not in portals or number != port:
                self.change("not portal " + address, portal.delete)

    def save(self):
        path = self.lib.root.default_save_file
        if not self.changes and os.path.exists(path):
            return

        def write():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.root.save_to_file(path)

        self.change("saved configuration", write)


def main():
    module = AnsibleModule(
        argument_spec={
            "portals": {"type": "list", "elements": "str", "required": True},
            "port": {"type": "int", "default": 3260},
            "targets": {"type": "list", "elements": "dict", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    targets = Targets(module)
    for wanted in module.params["targets"]:
        targets.one(wanted, module.params["portals"], module.params["port"])
    targets.save()
    module.exit_json(changed=bool(targets.changes), changes=targets.changes)


main()
