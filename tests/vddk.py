"""A stand-in for an nbdkit with VMware's VDDK or with the nfc plugin, which are not ours to have: the real nbdkit,
whose ``sh`` plugin checks every parameter as they would and serves what the simulated vCenter froze.

Harsh where reality is: it opens the disk only when a client connects, looks for the snapshot each time, answers whole
sectors only, and knows no parameter that nbdkit's manual does not name. The nfc plugin has no manual yet: no parameter
that virt-v2v does not give it. How it verifies certificates and what it says is not known; the stand-in tells neither.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from wavelift.adapters.vsphere.vddk import Plugin, VddkConfig
from wavelift.base.net import sha1_thumbprint
from wavelift.simulators.vcenter import VCenterSimulator

__test__ = False

_WRAPPER: Final = """#!/bin/sh
# nbdkit, with the plugin's name made that of a script
printf '%s\\n' "$@" >> '{folder}/argv'
env > '{folder}/env'
case "$*" in *--dump-plugin*)
  case "$1" in nfc|*/nbdkit-nfc-plugin.so) echo 'name=nfc'; exit 0;; esac
  for each; do case "$each" in libdir=*) libdir=${{each#libdir=}};; esac; done
  test -e "$libdir/lib64/libvixDiskLib.so.8" || {{ echo 'nbdkit: error: libvixDiskLib.so.8: cannot open' >&2; exit 1; }}
  echo 'name=vddk'; exit 0;; esac
left=$#
while [ $left -gt 0 ]; do
  each=$1; shift; left=$((left - 1))
  case "$each" in
    vddk|nfc|*/nbdkit-nfc-plugin.so) set -- "$@" sh '{folder}/vddk.sh';;
    *) set -- "$@" "$each";;
  esac
done
exec {nbdkit} "$@"
"""

_PLUGIN: Final = """#!/bin/sh
case "$1" in
thread_model) echo parallel;;
config)
  case "$2" in
    {known}) printf %s "$3" > "$tmpdir/$2";;
    password) case "$3" in
      {password}*) cat "{file}${{3#?}}" > "$tmpdir/password";;
      *) echo "EINVAL the password is on the command line" >&2; exit 1;; esac;;
    *) echo "EINVAL unknown parameter '$2'" >&2; exit 1;;
  esac;;
open) '{python}' -I -S '{folder}/open.py' "$tmpdir" "$2";;
get_size) stat -Lc %s "$2";;
block_size) echo 512 65536 2M;;
can_extents|can_multi_conn) exit 0;;
extents) '{python}' -I -S '{folder}/extents.py' "$2" "$3" "$4";;
pread)
  test $(( $3 % 512 + $4 % 512 )) = 0 || {{ echo 'EINVAL not whole sectors' >&2; exit 1; }}
  echo >> '{folder}/reads'
  if test -s '{folder}/read_error' && test "$(wc -l < '{folder}/reads')" -gt "$(cat '{folder}/allowed')"; then
    cat '{folder}/read_error' >&2; exit 1
  fi
  dd if="$2" skip="$4" count="$3" iflag=skip_bytes,count_bytes bs=1M status=none;;
*) exit 2;;
esac
"""

_PARAMETERS: Final = {
    "vddk": {
        "known": "compression|config|file|libdir|port|server|snapshot|thumbprint|transports|user|vm",
        "password": "-[0-9]",
        "file": "/proc/self/fd/",
    },
    "nfc": {
        "known": "cookie|file|insecure|nfchostport|port|server|snapshot|thumbprint|user|vm",
        "password": "+/",
        "file": "",
    },
}
_OPEN: Final = """
import json, os, re, sys, urllib.request

settings = json.load(open(os.path.join(os.path.dirname(__file__), "settings.json")))


def refuse(text):
    print("EIO " + text, file=sys.stderr)
    sys.exit(1)


def given(name):
    try:
        return open(os.path.join(sys.argv[1], name)).read()
    except FileNotFoundError:
        refuse(f"remote connection requested, missing parameter: {name}")


def ask(path):
    request = urllib.request.Request(settings["control"] + "/" + path, headers={"X-Sim-Token": settings["token"]})
    return json.load(urllib.request.urlopen(request, timeout=60))


broken = os.path.join(os.path.dirname(__file__), "open_error")
if os.path.exists(broken):
    refuse(open(broken).read().strip())
if sys.argv[2] != "true":
    refuse("opened for writing")
for name in ("server", "port"):
    if given(name) != settings[name]:
        refuse(f"Cannot connect to server {given('server')}:{given('port')}")
if given("thumbprint") != settings["thumbprint"]:
    refuse("VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=" + settings["thumbprint"])
if (given("user"), given("password")) != (settings["user"], settings["password"]):
    refuse("VixDiskLib_ConnectEx: Incorrect user name or password")
if settings["plugin"] == "vddk":
    if not set(given("transports").split(":")) <= {"file", "san", "hotadd", "nbdssl", "nbd"}:
        refuse("no such transport")
    if not os.path.isdir(given("libdir")):
        refuse("libvixDiskLib.so: cannot open shared object file")
vm = given("vm").removeprefix("moref=")
machine = next((each for each in ask("state")["vms"] if each["moref"] == vm), None)
snapshot = given("snapshot")
if machine is None or snapshot not in [each["moref"] for each in machine["snapshots"]]:
    refuse(f"ManagedObjectNotFound: snapshot {snapshot}")
head = re.compile(r"(-\\d{6})?\\.vmdk$")
disk = next((each for each in machine["disks"] if head.sub("", each["file"]) == head.sub("", given("file"))), None)
if disk is None or disk["file"] == given("file"):
    refuse(f"the file {given('file')} was not found in the snapshot")
(record,) = [each for each in ask("evidence") if each["snapshot_moref"] == snapshot and each["moref"] == vm]
print(next(each["file"] for each in record["disks"] if each["key"] == disk["key"]))
"""

_EXTENTS: Final = """
import os, sys

fd = os.open(sys.argv[1], os.O_RDONLY)
length, position = int(sys.argv[2]), int(sys.argv[3])
end = position + length
while position < end:
    try:
        data = os.lseek(fd, position, os.SEEK_DATA)
    except OSError:
        data = end
    if data > position:
        print(position, min(data, end) - position, "hole,zero")
    if data < end:
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        print(data, min(hole, end) - data)
        position = hole
    else:
        position = end
"""


class VddkStandIn:
    """Written into ``folder``: the program, and a folder that looks like the distribution or the nfc plugin's."""

    def __init__(self, folder: Path, sim: VCenterSimulator, *, plugin: Plugin = "vddk", **changes: Any) -> None:
        self.plugin = plugin
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        nbdkit = shutil.which("nbdkit", path="/usr/sbin:/usr/bin:/usr/local/bin")
        assert nbdkit, "make test installs nbdkit"
        names = {"folder": str(folder), "nbdkit": nbdkit, "python": sys.executable, **_PARAMETERS[plugin]}
        for name, text in (("nbdkit", _WRAPPER), ("vddk.sh", _PLUGIN)):
            (folder / name).write_text(text.format(**names))
            (folder / name).chmod(0o755)
        (folder / "open.py").write_text(_OPEN)
        (folder / "extents.py").write_text(_EXTENTS)
        (folder / "distrib" / "lib64").mkdir(parents=True, exist_ok=True)
        (folder / "distrib" / "lib64" / "libvixDiskLib.so.8").touch()
        if plugin == "nfc":
            (folder / "distrib" / "nbdkit-nfc-plugin.so").touch()
        from wavelift.base.net import fetch_certificate

        settings = {
            "plugin": plugin,
            "control": sim.control_url,
            "token": sim.token,
            "server": sim.host,
            "port": str(sim.port),
            "user": sim.username,
            "password": sim.password,
            "thumbprint": sha1_thumbprint(fetch_certificate(sim.host, sim.port, timeout=10)),
        }
        (folder / "settings.json").write_text(json.dumps(settings | changes))

    def config(self, **changes: Any) -> VddkConfig:
        fields = {"plugin": self.plugin, "folder": str(self.folder / "distrib"), "nbdkit": str(self.folder / "nbdkit")}
        return VddkConfig(**{**fields, **changes})

    @property
    def argv(self) -> list[str]:
        """Every word of every start."""
        return (self.folder / "argv").read_text().splitlines()

    @property
    def environment(self) -> str:
        return (self.folder / "env").read_text()

    def refuse(self, text: str) -> None:
        """What opening a disk says from now on."""
        (self.folder / "open_error").write_text(text)

    def fail_reads(self, text: str, *, after: int = 0) -> None:
        """What reading says from now on, once ``after`` more reads have been served."""
        (self.folder / "allowed").write_text(str(self.reads + after))
        (self.folder / "read_error").write_text(text)

    def heal(self) -> None:
        """Reading and opening work again."""
        for name in ("read_error", "open_error"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def reads(self) -> int:
        """Requests so far."""
        seen = self.folder / "reads"
        return len(seen.read_text().splitlines()) if seen.exists() else 0
