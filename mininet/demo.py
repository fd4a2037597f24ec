"""The demo: a REST call turns Open vSwitch into a load balancer.

    make demo                                one switch, four members
    make demo DEMO='--topo ring'             four switches in a ring
    make demo DEMO=--cli                     and then Mininet's command line

It starts everything it needs by itself, in a network namespace of its own: an Open
vSwitch, a Mininet lab on it, and the Fairlead binary. Nothing of the machine's own
network or Open vSwitch is touched, and all of it ends with the demo.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from client import chart  # noqa: E402 (the path above finds it)

REST = 'http://127.0.0.1:8080'
VIP = '10.0.0.100'
INSIDE = 'FAIRLEAD_DEMO_INSIDE'  # set in the namespace of the demo
PATIENCE = 30  # seconds for any one thing to happen


class DemoError(Exception):
    """Something the demo shows is not as it should be."""


def enter_namespace():
    """Runs this program again in network, process and mount namespaces of its own.

    When the first process there ends, however it ends, the kernel ends all the others.
    """
    if os.environ.get(INSIDE):
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        return
    os.environ[INSIDE] = '1'
    os.execvp('unshare', ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc',
                          sys.executable, os.path.abspath(__file__), *sys.argv[1:]])


def wait(what, condition):
    """Polls a condition until it gives something true, which is returned."""
    end = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise DemoError(f'not within {PATIENCE} s: {what}')
        time.sleep(0.01)


class OpenVSwitch:
    """An Open vSwitch of our own: its database, sockets and logs are in one directory."""

    def __init__(self, directory):
        self.directory = directory
        # The tools, also those that Mininet calls, find it by these.
        for variable in 'OVS_RUNDIR', 'OVS_LOGDIR', 'OVS_DBDIR', 'OVS_SYSCONFDIR':
            os.environ[variable] = directory
        database, socket = os.path.join(directory, 'conf.db'), os.path.join(directory, 'db.sock')
        subprocess.run(['ovsdb-tool', 'create', database, '/usr/share/openvswitch/vswitch.ovsschema'], check=True)
        quiet = ['--verbose=console:off', '--log-file']
        self.processes = [subprocess.Popen(['ovsdb-server', database, f'--remote=punix:{socket}', *quiet])]
        wait('ovsdb-server answers', lambda: os.path.exists(socket))
        subprocess.run(['ovs-vsctl', '--no-wait', 'init'], check=True)
        self.processes.append(subprocess.Popen(['ovs-vswitchd', f'unix:{socket}', '--pidfile', '--disable-system', *quiet]))
        wait('ovs-vswitchd answers', lambda: os.path.exists(os.path.join(directory, 'ovs-vswitchd.pid')))

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


class Fairlead:
    """The controller's process and its REST interface."""

    def __init__(self, binary, directory):
        self.command = [binary, 'serve', '--openflow', '127.0.0.1:6653', '--http', REST.removeprefix('http://'),
                        '--data', os.path.join(directory, 'data'), '--stage', 'managed']
        self.log = os.path.join(directory, 'fairlead.log')
        self.process = None
        self.start()

    def start(self):
        with open(self.log, 'a') as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait('fairlead is ready', lambda: self.alive() and self.request('GET', '/readyz')[0] == 200)

    def alive(self):
        if self.process.poll() is not None:
            raise DemoError(f'fairlead ended with status {self.process.returncode}')
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    @staticmethod
    def request(method, path, body=None):
        """Returns (status, decoded answer); the status is 0 when there was no answer."""
        request = urllib.request.Request(REST + path, method=method)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            request.add_header('Content-Type', 'application/json')
        try:
            with urllib.request.urlopen(request, data, timeout=10) as response:
                status, answer = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, answer = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, None

    def must(self, method, path, body=None):
        """A request that has to succeed."""
        status, answer = self.request(method, path, body)
        if not 200 <= status < 300:
            raise DemoError(f'{method} {path}: status {status}: {json.dumps(answer)}')
        return status, answer

    def items(self, path):
        return (self.request('GET', path)[1] or {}).get('items', [])

    def installed(self, name, switches):
        """Whether all switches have the VIP as it is stored now, and all members are found."""
        vip = self.must('GET', f'/v1/vips/{name}')[1]
        status = vip['status']
        return (status['provisioning'] == 'active'
                and len(status['switches']) == switches
                and all(s['state'] == 'installed' and s['generation'] == vip['generation'] for s in status['switches'])
                and all(m['status'].get('switch') for l in vip['listeners'] for m in l['pool']['members']))


class Client:
    """Traffic from a host of the lab (client.py in its namespace)."""

    def __init__(self, host):
        self.process = host.popen([sys.executable, os.path.join(HERE, 'client.py'), VIP, '--session'],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True)

    def __call__(self, *command):
        self.process.stdin.write(json.dumps(command) + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise DemoError('the client in the lab ended')
        return json.loads(answer)

    def stop(self):
        self.process.kill()
        self.process.wait()


def heading(text):
    print(f'\n\033[1m{text}\033[0m' if sys.stdout.isatty() else f'\n{text}')


def say(text=''):
    print(f'   {text}' if text else '', flush=True)


def show_spread(members, served):
    """Prints the bars of a list of members that served; all of it must have been served."""
    if None in served:
        raise DemoError(f'{served.count(None)} of {len(served)} connections failed')
    counts = Counter({name: 0 for name in members})
    counts.update(served)
    for line in chart(counts):
        say(line)


def moved(before, after, gone=None):
    """The number of connections that another member serves now, those of gone left out."""
    return sum(1 for old, new in zip(before, after) if old not in (gone, new))


class Demo:
    """The lab and the steps that the demo shows in it."""

    def __init__(self, options, directory):
        self.options = options
        self.ovs = OpenVSwitch(directory)
        self.fairlead = Fairlead(options.fairlead, directory)
        self.net = self.client = None

    def build(self):
        # Here, not above: Mininet asks for root as soon as it is imported in some versions.
        from mininet.log import setLogLevel
        from mininet.net import Mininet
        from mininet.node import OVSSwitch, RemoteController
        from fairlead_topo import topos

        setLogLevel('error')
        topo = topos['fairlead-' + self.options.topo]()
        self.net = Mininet(topo, switch=lambda name, **params: OVSSwitch(name, datapath='user', protocols='OpenFlow13', **params),
                           controller=lambda name: RemoteController(name, ip='127.0.0.1', port=6653))
        self.net.start()
        self.members = [h for h in self.net.hosts if h.role == 'member']
        switches, links = len(self.net.switches), len([l for l in topo.links() if all(topo.isSwitch(n) for n in l)])
        wait('all switches are connected', lambda: [
            s['connection']['state'] for s in self.fairlead.items('/v1/switches')].count('connected') == switches)
        wait('all links are found', lambda: len(self.fairlead.items('/v1/links')) in (links, 2 * links))
        self.client = Client(self.net.get('h1'))

    def stop(self):
        if self.client:
            self.client.stop()
        if self.net:
            self.net.stop()
        self.fairlead.stop()
        self.ovs.stop()

    def write(self, method, path, body=None):
        """A write to the VIP, shown with its answer and the time until the last switch has it."""
        begin = time.monotonic()
        status, _ = self.fairlead.must(method, path, body)
        wait('the VIP is installed', lambda: self.fairlead.installed('web', len(self.net.switches)))
        say(f'curl -X {method} {REST}{path}' + (" -d '" if body else ''))
        if body:
            for line in textwrap.wrap(json.dumps(body) + "'", 92):
                say('  ' + line)
        switches = 'the switch has' if len(self.net.switches) == 1 else f'all {len(self.net.switches)} switches have'
        say(f'=> {status}; {switches} it after {1000 * (time.monotonic() - begin):.0f} ms')
        self.settle()

    @staticmethod
    def settle():
        """Open vSwitch brings its cached flows up to its tables some milliseconds after it acknowledged a change."""
        subprocess.run(['ovs-appctl', 'revalidator/wait'], check=True)

    def run(self):
        names = [h.name for h in self.members]
        count = self.options.connections
        member = {h.name: {'address': h.IP(), 'port': 8080} for h in self.members}

        heading('1. The lab: real Open vSwitch, real TCP')
        for switch in self.net.switches:
            hosts = [h for h in self.net.hosts if h.connectionsTo(switch)]
            others = [s.name for s in self.net.switches if s is not switch and s.connectionsTo(switch)]
            say(f'{switch.name}: ' + ', '.join(f'{h.name} ({h.IP()}, {h.role})' for h in hosts)
                + ('; linked to ' * bool(hosts and others)) + ('linked to ' * bool(others and not hosts)) + ', '.join(others))

        heading(f'2. One REST call makes {VIP}:80 a load balancer of {len(names)} members')
        self.write('PUT', '/v1/vips/web', {'address': VIP, 'listeners': [
            {'protocol': 'tcp', 'port': 80, 'pool': {'members': list(member.values())}}]})

        heading(f'3. {count:,} connections from h1')
        begin = time.monotonic()
        first = self.client('spread', count, 1)
        show_spread(names, first)
        say()
        say(f'In {time.monotonic() - begin:.1f} s, balanced by the switches')

        gone = names[1]
        path = f'/v1/vips/web/listeners/tcp:80/members/{member[gone]["address"]}:8080'
        heading(f'4. 60 connections stay open; {gone} is removed')
        kept = self.client('open', 60)
        self.write('DELETE', path)
        now = self.client('ask')
        say()
        for name in names:
            mine = [(old, new) for old, new in zip(kept, now) if old == name]
            broken = sum(1 for old, new in mine if new != old)
            say(f'{name:>4} held {len(mine):>2} of 60: {broken:>2} broken' + (' (removed)' if name == gone else ''))
            if name != gone and broken:
                raise DemoError(f'{broken} connections of {name}, which stays, broke')
            if name == gone and broken != len(mine):
                raise DemoError(f'{name} was removed and still serves')
        without = self.client('spread', count, 1)
        others = sum(1 for old in first if old != gone)
        say()
        say(f'The same {count:,} connections again:')
        show_spread(names, without)
        say(f'{moved(first, without, gone)} of the {others:,} connections of the members that stay went to another')
        if moved(first, without, gone):
            raise DemoError('connections of members that stay have moved')

        heading(f'5. {gone} comes back')
        self.write('PUT', path, member[gone])
        back = self.client('spread', count, 1)
        changed = moved(without, back)
        say()
        show_spread(names, back)
        say()
        say(f'{100 * changed / count:.1f} % of the connections changed their member; ideal is {100 / len(names):.1f} %')

        dead = self.members[0]
        heading(f'6. The controller is killed (SIGKILL), and then {dead.name} loses its cable')
        self.fairlead.kill()
        switch = next(s for s in self.net.switches if dead.connectionsTo(s))
        self.net.configLinkStatus(dead.name, switch.name, 'down')
        port = dead.connectionsTo(switch)[0][1].name
        wait('Open vSwitch sees it', lambda: 'down' in subprocess.run(
            ['ovs-vsctl', 'get', 'interface', port, 'link_state'], capture_output=True, text=True, check=True).stdout)
        self.settle()
        sixty = self.client('spread', 60, 2)
        say(f'{60 - sixty.count(None)} of 60 requests served, by ' + ', '.join(sorted(set(filter(None, sixty)))) + ': the switch fails over by itself')
        if None in sixty:
            raise DemoError('requests failed')
        self.net.configLinkStatus(dead.name, switch.name, 'up')
        self.fairlead.start()
        wait('all switches are back', lambda: self.fairlead.installed('web', len(self.net.switches)))
        wait('the member is back', lambda: dead.name in self.client('spread', 60, 2))
        say('The controller is started again, the cable is back:')
        again = self.client('spread', count, 1)
        show_spread(names, again)
        say(f'{moved(back, again)} of {count:,} connections changed their member')

        say()
        say('Done. --help tells of other networks and of --cli; README.md goes on from here.')


def main():
    parser = argparse.ArgumentParser(description='Shows what Fairlead does, in a lab of its own.')
    parser.add_argument('--fairlead', default=os.path.join(HERE, '..', 'bin', 'fairlead'), help='the binary (default bin/fairlead)')
    parser.add_argument('--topo', choices=['single', 'ring', 'tree'], default='single', help='the network (default single)')
    parser.add_argument('--connections', type=int, default=2000, help='connections of each measurement (default 2000)')
    parser.add_argument('--cli', action='store_true', help="end with Mininet's command line instead of cleaning up at once")
    options = parser.parse_args()
    options.fairlead = os.path.abspath(options.fairlead)
    if os.geteuid() != 0:
        sys.exit('demo: network namespaces need root: use make demo, or sudo')
    if not os.access(options.fairlead, os.X_OK):
        sys.exit(f'demo: {options.fairlead} is missing: use make demo')
    enter_namespace()

    directory = tempfile.mkdtemp(prefix='fairlead-demo-')
    demo = None
    try:
        demo = Demo(options, directory)
        demo.build()
        demo.run()
        if options.cli:
            from mininet.cli import CLI
            CLI(demo.net)
    except DemoError as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        for name in 'fairlead.log', 'ovs-vswitchd.log':
            path = os.path.join(directory, name)
            if os.path.exists(path):
                with open(path) as log:
                    print(f'--- {name}\n' + ''.join(log.readlines()[-20:]), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if demo:
            demo.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    main()
