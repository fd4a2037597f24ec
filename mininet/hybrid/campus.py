"""The campus that the steps of this directory migrate: what they share.

    clients ── router (FRR) ── core1 ─────── core2 ── desk2
                               │ │ │ │       │ │ │ │
                               each access switch is cabled to both
                               │    │    │    │
                            access1 … 2 … 3 … 4
                             web1    web2    web3    desk1

Six legacy switches (Linux bridges) with a redundant core, which their spanning tree keeps open.
A person replaces them, one by one, by Open vSwitch bridges that forward by themselves (`replace`),
Fairlead takes those over, and all of it can be undone.

Everything lives in network namespaces: `campus` has the switches, the cables and Fairlead; each
host and the router have one of their own. Nothing of the machine's own network is touched.
Needs root, Open vSwitch, FRR, iproute2, ethtool; nothing but Python's standard library.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
# What runs leaves its sockets and logs here.
DIR = os.environ.get('FAIRLEAD_CAMPUS', '/tmp/fairlead-campus')
FAIRLEAD = os.path.abspath(os.environ.get('FAIRLEAD_BIN', os.path.join(HERE, '..', '..', 'bin', 'fairlead')))
SPACE = 'campus'
REST = 'http://127.0.0.1:8080'
DB = f'unix:{DIR}/db.sock'
PATIENCE = 30  # seconds for any one thing to happen

# Name: datapath id of its Open vSwitch bridge, spanning tree priority. core1 is the root, core2 the next.
SWITCHES = {
    'core1': ('0000000000000001', 4096),
    'core2': ('0000000000000002', 8192),
    'access1': ('0000000000000011', 32768),
    'access2': ('0000000000000012', 32768),
    'access3': ('0000000000000013', 32768),
    'access4': ('0000000000000014', 32768),
}
# The first cable of core2 leads to core1, so its port has the lowest number: where two ways are as
# short, the spanning tree takes that one, and all traffic goes by core1, whoever is the root.
CABLES = [('core1', 'core2')] + [(core, access) for access in SWITCHES if access.startswith('access') for core in ('core1', 'core2')]
# Name: switch, address.
HOSTS = {
    'router': ('core1', '10.0.0.254'),
    'desk1': ('access4', '10.0.0.11'),
    'desk2': ('core2', '10.0.0.12'),
    'web1': ('access1', '10.0.0.21'),
    'web2': ('access2', '10.0.0.22'),
    'web3': ('access3', '10.0.0.23'),
}
INSIDE = [name for name in HOSTS if name != 'router']  # hosts of the campus network
FAR = '192.0.2.2'  # the client behind the router: host `far`
VIP = '10.0.0.100'
# Two hosts on a bridge of the same Open vSwitch that nobody migrates: what is lost between them, the machine lost.
REFERENCE = {'ref1': '10.0.1.1', 'ref2': '10.0.1.2'}
AGENTS = [*INSIDE, 'far', *REFERENCE]

# Who sends a thousand datagrams a second to whom (traffic.py).
STREAMS = {'far': 'web1', 'desk1': 'web2', 'desk2': 'web3'}

# What is migrated together, and by which description.
GROUPS = {
    'core1': (['core1'], 'core1'),
    'access': (['access1', 'access2', 'access3', 'access4'], 'campus'),
    'core2': (['core2'], 'campus'),
}

os.environ.update({variable: DIR for variable in ('OVS_RUNDIR', 'OVS_LOGDIR', 'OVS_DBDIR', 'OVS_SYSCONFDIR')})


class CampusError(Exception):
    """Something of the campus is not as it should be."""


def run(*command):
    """Runs a command that has to succeed, and returns its output."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CampusError(f'{" ".join(command)}: {(done.stderr or done.stdout).strip()}')
    return done.stdout.strip()


def wait(what, condition, patience=PATIENCE):
    """Polls a condition until it gives something true, which is returned."""
    end = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > end:
            raise CampusError(f'not within {patience} s: {what}')
        time.sleep(0.02)
    return result


def enter():
    """Has the rest of this program run in the campus's network namespace."""
    if os.geteuid() != 0:
        sys.exit('network namespaces need root: use sudo')
    if os.environ.get('FAIRLEAD_CAMPUS_SPACE') != SPACE:
        if not os.path.exists(f'/run/netns/{SPACE}'):
            sys.exit('the campus is not there: 0_legacy.py builds it')
        os.environ['FAIRLEAD_CAMPUS_SPACE'] = SPACE
        os.execvp('ip', ['ip', 'netns', 'exec', SPACE, sys.executable, *sys.argv])


def start(name, *command, space=SPACE):
    """Starts a process that stays, in a namespace; its output goes into NAME.log."""
    with open(f'{DIR}/{name}.log', 'a') as log:
        subprocess.Popen(['ip', 'netns', 'exec', space, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


# Cables and switches.

def port(switch, other):
    """The name of a switch's port towards a neighbour (or of a host's port)."""
    return other if other in HOSTS else f'{switch}-{other}'


def ports(switch):
    """All ports of a switch, in the order in which they were cabled."""
    cables = [port(switch, a if b == switch else b) for a, b in CABLES if switch in (a, b)]
    return cables + [name for name, (at, _) in HOSTS.items() if at == switch]


def peer(name):
    """The port at the other end of a cable between switches; None for a host's."""
    return None if name in HOSTS else '-'.join(reversed(name.split('-')))


def ovs(switch):
    """The name of the Open vSwitch bridge that takes a switch's place."""
    return 'ovs-' + switch


def in_ovs(name):
    """Whether a port is in an Open vSwitch bridge."""
    return subprocess.run(['ovs-vsctl', 'port-to-br', name], capture_output=True).returncode == 0


def stp_state(name):
    """The state of a Linux bridge's port; None for a port that is in none."""
    try:
        with open(f'/sys/class/net/{name}/brport/state') as state:
            return ('disabled', 'listening', 'learning', 'forwarding', 'blocking')[int(state.read())]
    except FileNotFoundError:
        return None


def carries(name):
    """Whether a cable carries traffic, as far as spanning tree says: both its ends forward."""
    return all(stp_state(end) in ('forwarding', None) for end in (name, peer(name)) if end)


def calm(switches=SWITCHES):
    """Whether no port of a Linux bridge is on its way to another state."""
    return not any(stp_state(p) in ('listening', 'learning') for s in switches for p in ports(s))


def add_legacy(switch, stp=True):
    """Makes a legacy switch: a Linux bridge, with the shortest spanning tree timers there are."""
    priority = SWITCHES[switch][1]
    run('ip', 'link', 'add', switch, 'type', 'bridge', 'stp_state', str(int(stp)), 'priority', str(priority),
        'forward_delay', '200', 'hello_time', '100', 'max_age', '600', 'mcast_snooping', '0')
    run('ip', 'link', 'set', switch, 'up')


def add_ovs(switch):
    """Makes the Open vSwitch bridge that is to take a switch's place: in no spanning tree, and
    transparent to that of the others (forward-bpdu)."""
    run('ovs-vsctl', 'add-br', ovs(switch), '--', 'set', 'bridge', ovs(switch), 'datapath_type=netdev',
        f'other_config:datapath-id={SWITCHES[switch][0]}', 'other_config:forward-bpdu=true')


def to_ovs(switch, name):
    """Takes a port out of the Linux bridge and puts it into the Open vSwitch bridge."""
    run('sh', '-c', f'ip link set {name} nomaster && ovs-vsctl add-port {ovs(switch)} {name}')


def to_legacy(switch, name):
    """The reverse."""
    run('sh', '-c', f'ovs-vsctl del-port {ovs(switch)} {name} && ip link set {name} master {switch}')


def unplug(name):
    """Pulls a cable between switches."""
    run('ip', 'link', 'set', name, 'down')


def plug(name):
    """Puts a cable back. A legacy switch listens first, so nothing goes round."""
    run('ip', 'link', 'set', name, 'up')


def plug_all(switch):
    """Puts all pulled cables of a switch back; unplug_spare pulls those that do not lead to core1."""
    for p in unplugged(switch):
        plug(p)
        if peer(p):
            plug(peer(p))


def unplug_spare(switch):
    for p in ports(switch):
        if peer(p) and 'core1' not in p:
            unplug(p)
            unplug(peer(p))


def unplugged(switch):
    """The ports of a switch whose cable is pulled."""
    links = json.loads(run('ip', '-j', 'link'))
    down = {link['ifname'] for link in links if 'UP' not in link['flags']}
    return [p for p in ports(switch) if p in down or peer(p) in down]


def join(switch):
    """Cables the Linux bridge and the Open vSwitch bridge of a switch to each other."""
    run('ip', 'link', 'add', f'{switch}-new', 'type', 'veth', 'peer', 'name', f'{switch}-old')
    run('ip', 'link', 'set', f'{switch}-new', 'master', switch, 'up')
    run('ip', 'link', 'set', f'{switch}-old', 'up')
    run('ovs-vsctl', 'add-port', ovs(switch), f'{switch}-old')


def part(switch):
    """Takes that cable away."""
    run('ovs-vsctl', 'del-port', ovs(switch), f'{switch}-old')
    run('ip', 'link', 'del', f'{switch}-new')


def replace(*switches):
    """Replaces legacy switches by Open vSwitch bridges, as a person would who moves cables.

    The two are joined by a cable, and port after port moves: what a port carries is interrupted for
    as long as the move takes. A cable that spanning tree has blocked is pulled first, and goes back
    last, so that a legacy neighbour listens before it forwards into it. Where the neighbour is no
    legacy switch any more, nobody would listen: it stays pulled until the switch is managed.
    """
    wait('spanning tree is calm', calm)
    for switch in switches:
        join(switch)
    wait('the legacy switches forward to the new ones', lambda: all(stp_state(f'{s}-new') == 'forwarding' for s in switches))
    for switch in switches:
        idle = [p for p in ports(switch) if not carries(p)]
        for p in idle:
            unplug(p)
        for p in ports(switch):
            to_ovs(switch, p)
        part(switch)
        run('ip', 'link', 'del', switch)
        for p in idle:
            if not in_ovs(peer(p)):
                plug(p)
    wait('spanning tree is calm', calm)


def restore(*switches):
    """The reverse of `replace`. The Linux bridge gets its spanning tree when all ports are there:
    until then it passes on what the others send, as the Open vSwitch bridge does."""
    for switch in switches:
        add_legacy(switch, stp=False)
        join(switch)
        idle = [p for p in ports(switch) if not carries(p)]
        for p in idle:
            unplug(p)
        for p in ports(switch):
            to_legacy(switch, p)
        part(switch)
        run('ip', 'link', 'set', switch, 'type', 'bridge', 'stp_state', '1')
        plug_all(switch)
    wait('spanning tree is calm', calm)


# Building, and taking away.

def add_host(name, mac, address, gateway, link, space=SPACE):
    """Makes a host: a namespace with eth0, whose other end is `link` in a namespace."""
    run('ip', 'netns', 'add', name)
    run('ip', '-n', space, 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'address', mac, 'netns', name)
    quiet(name)
    run('ip', '-n', name, 'addr', 'add', address + '/24', 'dev', 'eth0')
    run('ip', '-n', name, 'link', 'set', 'eth0', 'up')
    # A veth leaves checksums to hardware that is not there; a switch that rewrites addresses cannot complete them.
    run('ip', 'netns', 'exec', name, 'ethtool', '-K', 'eth0', 'tx', 'off')
    run('ip', '-n', space, 'link', 'set', link, 'up')
    if gateway:
        run('ip', '-n', name, 'route', 'add', 'default', 'via', gateway)


def quiet(space):
    """No IPv6 in a namespace: only what a person sends shall be on the wire."""
    run('ip', 'netns', 'exec', space, 'sysctl', '-q', '-w', 'net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1')
    run('ip', '-n', space, 'link', 'set', 'lo', 'up')


def build():
    """Builds the legacy campus; run outside of its namespace."""
    if os.path.exists(f'/run/netns/{SPACE}'):
        raise CampusError('there is a campus already: 9_remove.py takes it away')
    os.makedirs(DIR, exist_ok=True)
    os.chmod(DIR, 0o755)
    run('ip', 'netns', 'add', SPACE)
    quiet(SPACE)
    number = iter(range(1, 100))
    for name, (switch, address) in HOSTS.items():
        add_host(name, f'02:00:00:00:00:{next(number):02x}', address, None if name == 'router' else HOSTS['router'][1], name)
    add_host('far', f'02:00:00:00:00:{next(number):02x}', FAR, '192.0.2.1', 'far', space='router')
    run('ip', '-n', 'router', 'addr', 'add', '192.0.2.1/24', 'dev', 'far')
    run('ip', 'netns', 'exec', 'router', 'ethtool', '-K', 'far', 'tx', 'off')
    run('ip', 'netns', 'exec', 'router', 'sysctl', '-q', '-w', 'net.ipv4.ip_forward=1')
    for name, address in REFERENCE.items():
        add_host(name, f'02:00:00:00:00:{next(number):02x}', address, None, name)
    for a, b in CABLES:
        run('ip', '-n', SPACE, 'link', 'add', port(a, b), 'type', 'veth', 'peer', 'name', port(b, a))


def cable():
    """Starts the legacy switches and Open vSwitch, which has a bridge without cables for each; run in the campus's namespace."""
    for switch in SWITCHES:
        add_legacy(switch)
        for p in ports(switch):
            run('ip', 'link', 'set', p, 'master', switch, 'up')
    run('ovsdb-tool', 'create', f'{DIR}/conf.db', '/usr/share/openvswitch/vswitch.ovsschema')
    start('ovsdb-server', 'ovsdb-server', f'{DIR}/conf.db', f'--remote=punix:{DIR}/db.sock', '--verbose=console:off', '--log-file')
    wait('ovsdb-server answers', lambda: os.path.exists(f'{DIR}/db.sock'))
    run('ovs-vsctl', '--no-wait', 'init')
    start('ovs-vswitchd', 'ovs-vswitchd', DB, '--pidfile', '--disable-system', '--verbose=console:off', '--log-file')
    wait('ovs-vswitchd answers', lambda: os.path.exists(f'{DIR}/ovs-vswitchd.pid'))
    for switch in SWITCHES:
        add_ovs(switch)
    run('ovs-vsctl', 'add-br', 'reference', '--', 'set', 'bridge', 'reference', 'datapath_type=netdev')
    for name in REFERENCE:
        run('ovs-vsctl', 'add-port', 'reference', name)
    start_frr()
    for name in AGENTS:
        start(name, sys.executable, os.path.join(HERE, 'traffic.py'), 'host', name, space=name)
    wait('the hosts are up', lambda: all(os.path.exists(f'{DIR}/{name}.sock') for name in AGENTS))
    wait('spanning tree is calm', calm)


def start_frr():
    """Runs FRR's routing daemon as the router."""
    os.makedirs(f'{DIR}/frr', exist_ok=True)
    os.chmod(f'{DIR}/frr', 0o777)
    start('zebra', '/usr/lib/frr/zebra', '-i', f'{DIR}/frr/zebra.pid', '-z', f'{DIR}/frr/zserv', '--vty_socket', f'{DIR}/frr', '-P', '0', '-f', '/dev/null', space='router')
    wait('zebra is up', lambda: os.path.exists(f'{DIR}/frr/zserv'))


def remove():
    """Ends all that runs in the campus's namespaces and deletes them; run outside of them."""
    spaces = [space for space in (SPACE, 'router', *AGENTS) if os.path.exists(f'/run/netns/{space}')]
    for space in spaces:
        for pid in run('ip', 'netns', 'pids', space).split():
            if int(pid) != os.getpid():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended
    for space in spaces:
        run('ip', 'netns', 'del', space)
    subprocess.run(['rm', '-rf', DIR], check=True)


# Fairlead.

def start_fairlead():
    """Starts Fairlead; a switch that it has never seen is only observed."""
    start('fairlead', FAIRLEAD, 'serve', '--data', f'{DIR}/data', '--stage', 'observe', '--openflow', '127.0.0.1:6653', '--http', REST.removeprefix('http://'))
    wait('fairlead is ready', lambda: rest('GET', '/readyz')[0] == 200)


def rest(method, path, body=None):
    """Returns (status, decoded answer); the status is 0 when there was no answer."""
    request = urllib.request.Request(REST + path, method=method, headers={'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode(), timeout=30) as response:
            status, answer = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, answer = error.code, error.read()
    except OSError:
        return 0, None
    try:
        return status, json.loads(answer)
    except ValueError:
        return status, None


def items(path):
    return (rest('GET', path)[1] or {}).get('items', [])


def fairlead(*args):
    """Runs a command of Fairlead as a person would, shows it, and returns what it says."""
    print('$ fairlead ' + ' '.join(args), flush=True)
    done = subprocess.run([FAIRLEAD, *args], capture_output=True, text=True)
    print((done.stdout + done.stderr).rstrip(), flush=True)
    if done.returncode != 0:
        raise CampusError(f'fairlead {args[0]} {args[1]} failed')
    return done.stdout


# The migrations.

def description(name):
    """The path of a migration's description, in which the database is where this campus has it."""
    with open(os.path.join(HERE, name + '.yml')) as source, open(f'{DIR}/{name}.yml', 'w') as copy:
        copy.write(source.read().replace('/tmp/fairlead-campus', DIR))
    return f'{DIR}/{name}.yml'


def apply(group, stage):
    """Applies and confirms the wave that brings a group of switches to a stage."""
    name, wave = GROUPS[group][1], f'{group}-{stage}'
    if rest('GET', f'/v1/migrations/{name}')[0] == 404:
        fairlead('migrate', 'plan', '-f', description(name))
    fairlead('migrate', 'apply', name, '--wave', wave)
    # A person would look around here. Without a word within the confirm timeout the wave is taken back.
    fairlead('migrate', 'confirm', name)


def roll_back(group, wave='steer'):
    """Takes a group of switches, and what was migrated after it, back to where it was before one of its waves."""
    name = GROUPS[group][1]
    migration = rest('GET', f'/v1/migrations/{name}')[1]
    checkpoint = max(point['n'] for point in migration['checkpoints'] if point['wave'] == f'{group}-{wave}')
    fairlead('migrate', 'rollback', name, '--to', str(checkpoint))


# Hosts.

def ask(host, *command, patience=PATIENCE):
    """Has a host's agent (traffic.py) do something, and returns its answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        sock.connect(f'{DIR}/{host}.sock')
        sock.sendall(json.dumps(command).encode() + b'\n')
        line = sock.makefile().readline()
    if not line:
        raise CampusError(f'{host}: {" ".join(map(str, command))}: no answer')
    return json.loads(line)


def main(steps):
    """What every step's script does: in the campus, with errors in one line."""
    enter()
    try:
        steps()
    except CampusError as error:
        sys.exit(f'{os.path.basename(sys.argv[0])}: {error}')
