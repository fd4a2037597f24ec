"""Mininet topologies for Fairlead.

By hand, with `fairlead serve` and Open vSwitch running on this machine:

    sudo mn --custom mininet/fairlead_topo.py --topo fairlead-single \
        --switch ovs,datapath=user,protocols=OpenFlow13 --controller remote

    fairlead-single[,members=4]             one switch: client h1, members h2, h3, ...
    fairlead-ring[,switches=4][,members=1]  a ring of switches, each with a client and members
    fairlead-tree[,leaves=2][,members=2]    a switch s1 above leaves, each leaf with a client and members

Host hN has the address 10.0.0.N. Each member runs a web server at port 8080 that
answers with the member's name. Switches keep forwarding without their controller
(fail mode secure) and have the datapath ids 1, 2, ...

The file needs nothing but Mininet, and works with Debian's (2.3.0).
"""

import os
import subprocess

from mininet.node import Host
from mininet.topo import Topo

# mn executes this file without a __file__; its code still knows where it is from.
HERE = os.path.dirname(os.path.abspath((lambda: None).__code__.co_filename))
SERVER = os.path.join(HERE, 'server.py')
PORT = 8080  # of the members' web servers


class LabHost(Host):
    """A host whose frames carry checksums; a member also runs its web server.

    A veth leaves checksums to hardware that is not there. A switch that rewrites
    addresses cannot complete them, and the receiver drops what arrives.
    """

    role = 'client'
    server = None

    def config(self, role='client', **params):
        result = super().config(**params)
        for intf in self.intfNames():
            self.cmd('ethtool -K', intf, 'tx off')
        # Only what a test or a user sends shall be on the wire.
        self.cmd('sysctl -q -w net.ipv6.conf.all.disable_ipv6=1')
        self.role = role
        if role == 'member':
            self.server = self.popen(['/usr/bin/python3', SERVER, self.name, str(PORT)],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return result

    def terminate(self):
        if self.server:
            self.server.kill()
            self.server.wait()
            self.server = None
        super().terminate()


class LabTopo(Topo):
    """What the topologies share: numbered switches, hosts with known addresses."""

    def add_switch(self):
        n = len(self.switches()) + 1
        return self.addSwitch(f's{n}', dpid=f'{n:016x}')

    def add_host(self, switch, role):
        n = len(self.hosts()) + 1
        host = self.addHost(f'h{n}', cls=LabHost, role=role,
                            ip=f'10.0.0.{n}/24', mac=f'02:00:00:00:00:{n:02x}')
        self.addLink(host, switch)
        return host

    def add_site(self, switch, members):
        """A client and members on one switch."""
        self.add_host(switch, 'client')
        for _ in range(members):
            self.add_host(switch, 'member')


class SingleTopo(LabTopo):
    """One switch with a client and members."""

    def build(self, members=4):
        self.add_site(self.add_switch(), int(members))


class RingTopo(LabTopo):
    """A ring of switches, a client and members on each. It has a loop: without a
    controller that knows, a broadcast circles for ever."""

    def build(self, switches=4, members=1):
        ring = [self.add_switch() for _ in range(int(switches))]
        for switch in ring:
            self.add_site(switch, int(members))
        for switch, after in zip(ring, ring[1:] + ring[:1]):
            self.addLink(switch, after)


class TreeTopo(LabTopo):
    """Two tiers: one switch above leaves, a client and members on each leaf."""

    def build(self, leaves=2, members=2):
        root = self.add_switch()
        for _ in range(int(leaves)):
            leaf = self.add_switch()
            self.add_site(leaf, int(members))
            self.addLink(root, leaf)


topos = {
    'fairlead-single': SingleTopo,
    'fairlead-ring': RingTopo,
    'fairlead-tree': TreeTopo,
}
