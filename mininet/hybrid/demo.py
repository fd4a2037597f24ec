#!/usr/bin/python3
"""The demo of the hybrid network: a campus of six legacy switches becomes SDN in waves, under traffic, and back again.

    make demo-hybrid
    make demo-hybrid DEMO='--form ansible'      by the Ansible playbooks
    make demo-hybrid DEMO='--until core1'       one switch only

It builds the campus (campus.py) in namespaces of its own, and takes the steps that a person would, by the same scripts
(0_legacy.py, 1_replace.py, …). While each runs, traffic passes; after each, what was lost is printed. It ends with status
3 when something was lost that must not be, and with 1 when something does not work.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import campus

HERE = os.path.dirname(os.path.abspath(__file__))
INSIDE = 'FAIRLEAD_CAMPUS_INSIDE'  # set in the namespaces of the demo

ADOPTED = 5  # datagrams that a stream may lose when a bridge is adopted or released
UNFIT = 300  # datagrams between the hosts of the reference: who loses more has a machine that is not fit to measure on
KEPT = 4  # connections through the VIP that each client opens before each step


def enter_namespaces():
    """Runs this program again in mount and process namespaces of its own: the campus's network namespaces are not seen
    outside, and when the first process there ends, however it ends, the kernel ends all the others."""
    if os.environ.get('FAIRLEAD_CAMPUS_SPACE'):
        return
    if not os.environ.get(INSIDE):
        os.environ[INSIDE] = '1'
        os.environ['FAIRLEAD_CAMPUS'] = tempfile.mkdtemp(prefix='fairlead-campus-')
        status = subprocess.call(['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', sys.executable, os.path.abspath(__file__), *sys.argv[1:]])
        shutil.rmtree(os.environ['FAIRLEAD_CAMPUS'], ignore_errors=True)
        sys.exit(status)
    os.makedirs('/run/netns', exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', '/run/netns'], check=True)


class Demo:
    """The story, and what is measured of it."""

    def __init__(self, options):
        self.options = options
        self.pool = ThreadPoolExecutor(16)
        self.report = []
        self.missed = []
        self.serving = False  # there is a VIP
        self.bridges = {}  # rows of bridges before Fairlead, by name

    def watch(self):
        """Keeps what Fairlead tells of, with the time, in events.log."""
        with urllib.request.urlopen(campus.REST + '/v1/events') as events, open(f'{campus.DIR}/events.log', 'wb', buffering=0) as log:
            for line in events:
                if line.startswith(b'data:'):
                    log.write(f'{time.time():.3f} '.encode() + line[6:])

    # Measuring.

    def mark(self):
        """What became of the traffic since the last mark, by host."""
        hosts = [*campus.STREAMS, 'ref1']
        return dict(zip(hosts, self.pool.map(lambda host: campus.ask(host, 'mark'), hosts)))

    def broadcasts(self, word):
        """Has every host of the campus send broadcasts, and returns which did not arrive exactly once at every other."""
        count = 3
        list(self.pool.map(lambda host: campus.ask(host, 'shout', word + host, count), campus.INSIDE))
        pairs = [(a, b) for a in campus.INSIDE for b in campus.INSIDE if a != b]

        def copies():
            return {(a, b): campus.ask(b, 'copies', word + a, count) for a, b in pairs}

        end = time.monotonic() + 2
        while (heard := copies()) and any(0 in numbers for numbers in heard.values()) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)  # for second copies
        return [f'{a} to {b}: {numbers}' for (a, b), numbers in copies().items() if numbers != [1] * count]

    def step(self, title, kind, *scripts, vip=True):
        """Takes a step by its scripts, under traffic, and says what that cost.

        kind is cabling (a person's work: measured only), adopt or release (each bridge may cost a stream ADOPTED datagrams),
        or stage (nothing). vip says that connections through the VIP must survive it.
        """
        number = len(self.report) + 1
        heading(f'{number}. {title}')
        if self.serving and vip:
            list(self.pool.map(lambda host: campus.ask(host, 'vip', campus.VIP, KEPT), campus.STREAMS))
        self.mark()
        if self.options.form == 'ansible' and number < 4:
            self.check(*scripts)
            self.mark()
        begin = time.monotonic()
        for script in scripts:
            self.script(*script)
        took = time.monotonic() - begin
        time.sleep(1)
        marks = self.mark()
        if self.options.form == 'ansible' and number < 4:
            self.again(*scripts)
        wrong = self.broadcasts(f's{number}-')
        self.judge(title, kind, vip, took, marks, wrong)

    def check(self, *scripts):
        """Requires that playbooks change nothing in check mode."""
        for name, *args in scripts:
            if name.endswith('.yml'):
                before = state()
                self.script(name, '--check', *args)
                if state() != before:
                    raise campus.CampusError(f'{name} --check has changed something')

    def again(self, *scripts):
        """Requires that playbooks change nothing the second time."""
        for name, *args in scripts:
            if name.endswith('.yml'):
                before = state()
                if ' changed=0 ' not in self.script(name, *args):
                    raise campus.CampusError(f'{name} changes something the second time')
                if state() != before:
                    raise campus.CampusError(f'{name} has changed something the second time')

    def script(self, name, *args):
        """Runs a script of this directory, or a playbook, as a person would, and shows what it says."""
        command = [sys.executable, os.path.join(HERE, name), *args]
        shown = f'mininet/hybrid/{name} {" ".join(args)}'
        if name.endswith('.yml'):
            command = ['/usr/bin/ansible-playbook', '-i', 'localhost,', os.path.join(HERE, 'ansible', name), *args]
            shown = f'ansible-playbook -i localhost, mininet/hybrid/ansible/{name} {" ".join(args)}'
        say('# ' + shown)
        done = subprocess.run(command, capture_output=True, text=True, cwd=os.path.join(HERE, 'ansible') if name.endswith('.yml') else None)
        for line in (done.stdout + done.stderr).strip().splitlines():
            say(line)
        if done.returncode != 0:
            raise campus.CampusError(f'{shown} failed')
        return done.stdout

    def judge(self, title, kind, vip, took, marks, wrong):
        reference = marks['ref1']['streams'][0]
        windows = self.windows() if kind in ('adopt', 'release') else []
        lost, most = {}, 0
        for host, target in campus.STREAMS.items():
            stream = marks[host]['streams'][0]
            lost[f'{host} to {target}'] = stream['lost']
            for times, machine in zip(cut(stream['lost_at'], windows), cut(reference['lost_at'], windows)):
                most = max(most, len(times) - len(machine))
        row = {
            'title': title, 'kind': kind, 'seconds': round(took, 1), 'lost': lost, 'most': most, 'machine': reference['lost'],
            'longest': max(marks[host]['streams'][0]['longest'] for host in campus.STREAMS),
            'twice': sum(marks[host]['streams'][0]['twice'] for host in campus.STREAMS),
            'tcp': [sum(marks[host]['tcp'][k] for host in campus.STREAMS) for k in ('broken', 'open')],
            'vip': [sum(marks[host]['vip'][k] for host in campus.STREAMS) for k in ('broken', 'open')],
            'http': [sum(marks[host]['http'][k] for host in campus.STREAMS) for k in ('failed', 'done')],
            'broadcasts': wrong,
            'lost_at': {host: spans(marks[host]['streams'][0]['lost_at']) for host in [*campus.STREAMS, 'ref1']},
        }
        allowed = {'cabling': None, 'adopt': ADOPTED, 'release': ADOPTED, 'stage': 0}[kind]
        missed = []
        # Where the machine itself stood still, nothing can be said of the step.
        row['unfit'] = reference['lost'] > UNFIT
        if not row['unfit'] and allowed is not None:
            if most > allowed:
                missed.append(f'{most} datagrams of a stream were lost at one switch, {allowed} may be')
            if vip and row['vip'][0]:
                missed.append(f'{row["vip"][0]} connections through the VIP broke')
            if row['tcp'][0]:
                missed.append(f'{row["tcp"][0]} TCP connections broke')
        if row['twice']:
            missed.append(f'{row["twice"]} datagrams arrived twice')
        if wrong:
            missed.append('broadcasts did not arrive once: ' + '; '.join(wrong[:4]))
        if wrong:
            with open(f'{campus.DIR}/state.log', 'a') as log:
                json.dump({path: campus.rest('GET', path)[1] for path in ('/v1/topology', '/v1/segments', '/v1/switches?limit=100')}, log)
        row['missed'] = missed
        self.missed += [f'{title}: {m}' for m in missed]
        self.report.append(row)
        say()
        say(f'took {took:.1f} s; of 1,000 datagrams a second each lost: ' + ', '.join(f'{name} {n}' for name, n in lost.items())
            + (f' (longest gap {row["longest"]} ms)' if row['longest'] else '') + (f'; the machine lost {reference["lost"]}' if reference['lost'] else ''))
        say(f'TCP: {row["tcp"][0]} of {row["tcp"][1]} connections broken'
            + (f'; VIP: {row["vip"][0]} of {sum(row["vip"])} broken, {row["http"][0]} of {sum(row["http"])} requests failed' if self.serving else '')
            + f'; broadcasts: {"once at every host" if not wrong else "; ".join(wrong)}')
        if row['unfit'] and allowed is not None:
            say('The machine stood still: this step is not judged.')
        for m in missed:
            say('MISSED: ' + m)

    def windows(self):
        """When the steps of the waves that just ended began, as times of day."""
        times = []
        for migration in campus.items('/v1/migrations'):
            for step in (migration.get('last') or {}).get('steps', []):
                if began := step.get('began'):
                    times.append(datetime.fromisoformat(began[:26].rstrip('Z') + '+00:00').timestamp())
        return sorted(times)

    # The story.

    def run(self):
        def of(stage, group, *wave):
            if self.options.form == 'python':
                return (f'{stage}.py', group, *wave)
            return (f'{stage}.yml', '-e', f'group={group}', *(f'-ewave={w}' for w in wave))

        for host, target in campus.STREAMS.items():
            campus.ask(host, 'stream', campus.HOSTS[target][1])
            campus.ask(host, 'tcp', campus.HOSTS[target][1], 5)
        campus.ask('ref1', 'stream', campus.REFERENCE['ref2'])
        threading.Thread(target=self.watch, daemon=True).start()
        first = rows()
        say()
        say('Traffic: ' + ', '.join(f'{host} to {target}' for host, target in campus.STREAMS.items()) + ', 1,000 numbered datagrams a second each, there and back')

        self.step('core1: the legacy switch is replaced by Open vSwitch', 'cabling', ('1_replace.py', 'core1'))
        self.cabled('core1')
        self.step('core1 is adopted, and steers; the VIP is served', 'adopt', of('2_steer', 'core1'))
        self.serve()
        self.step('core1 is managed', 'stage', of('3_manage', 'core1'))
        if self.options.until != 'core1':
            self.access(of)
        self.serve(False)
        self.step('core1 is rolled back: the VIP goes with its last switch', 'release', of('4_rollback', 'core1'), vip=False)
        self.released('core1')
        self.step('core1: the legacy switch is back', 'cabling', ('5_restore.py', 'core1'))
        if (last := rows()) != first:
            for name in ('legacy', 'ovsdb'):
                for line in sorted(set(map(json.dumps, first[name])) ^ set(map(json.dumps, last[name]))):
                    say(line)
            raise campus.CampusError('the last state is not the first')
        self.summary()

    def access(self, of):
        """The part of the story about the access switches."""
        switches = campus.GROUPS['access'][0]
        self.step('access1 to access4: replaced by Open vSwitch', 'cabling', ('1_replace.py', *switches))
        self.cabled(*switches)
        self.step('access1 to access4 are adopted, and steer', 'adopt', of('2_steer', 'access'))
        self.step('access1 to access4 are managed', 'stage', of('3_manage', 'access'))
        if self.options.until == 'core2':
            self.core2(of)
        self.step('access1 to access4 are rolled back', 'release', of('4_rollback', 'access'))
        self.released(*switches)
        self.step('access1 to access4: the legacy switches are back', 'cabling', ('5_restore.py', *switches))

    def core2(self, of):
        """The part about the last legacy switch."""
        self.step('core2, the last one: replaced by Open vSwitch', 'cabling', ('1_replace.py', 'core2'))
        self.cabled('core2')
        self.step('core2 is adopted, and steers', 'adopt', of('2_steer', 'core2'))
        self.step('core2 is managed', 'stage', of('3_manage', 'core2'))
        self.step('core2: its spare cables are put in; the whole campus is SDN', 'cabling', ('6_cables.py', 'in', 'core2'))
        self.picture()
        self.step('core2: its spare cables are pulled', 'cabling', ('6_cables.py', 'out', 'core2'))
        self.step('core2 is rolled back', 'release', of('4_rollback', 'core2'))
        self.released('core2')
        self.step('core2: the legacy switch is back', 'cabling', ('5_restore.py', 'core2'))

    def serve(self, on=True):
        for host in campus.STREAMS:
            campus.ask(host, 'http', campus.VIP if on else None)
        self.serving = on

    def cabled(self, *switches):
        """Remembers the rows of bridges that are about to be adopted."""
        for switch in switches:
            self.bridges[switch] = rows(campus.ovs(switch))['ovsdb']

    def released(self, *switches):
        """Requires that bridges have the rows that they had before they were adopted."""
        for switch in switches:
            if (now := rows(campus.ovs(switch))['ovsdb']) != self.bridges[switch]:
                raise campus.CampusError(f'{switch}: rows of OVSDB are not what they were: {json.dumps(now)}, {json.dumps(self.bridges[switch])}')
        say(f'every column of {len(switches)} bridge{"s" * (len(switches) > 1)} in OVSDB is what it was')

    def picture(self):
        if self.options.picture:
            with open(self.options.picture, 'w') as svg:
                svg.write(campus.run(campus.FAIRLEAD, 'topology', '--output', 'svg'))

    def summary(self):
        heading('What it cost')
        say(f'{"step":<58} {"s":>5} {"lost":>12} {"gap":>5} {"ref":>4} {"TCP":>7} {"VIP":>7} {"HTTP":>8}')
        for row in self.report:
            lost = ' '.join(map(str, row['lost'].values()))
            http = f'{row["http"][0]}/{sum(row["http"])}' if sum(row['http']) else '-'
            vip = f'{row["vip"][0]}/{sum(row["vip"])}' if sum(row['vip']) else '-'
            say(f'{row["title"]:<58} {row["seconds"]:>5} {lost:>12} {row["longest"]:>5} {row["machine"]:>4} {row["tcp"][0]:>3}/{sum(row["tcp"]):<3} {vip:>7} {http:>8}')
        say()
        say('lost: of the streams ' + ', '.join(f'{a} to {b}' for a, b in campus.STREAMS.items()) + '; gap: the longest, in ms; ref: lost between two hosts on a bridge that nobody touched')
        say('The last state is the first: every port in its legacy switch, every row of OVSDB as it was.')
        for m in self.missed:
            say('MISSED: ' + m)


def spans(times):
    """Joins times that are less than 10 ms apart to [first, last, how many]."""
    joined = []
    for t in times:
        if joined and t - joined[-1][1] < 0.01:
            joined[-1][1:] = [t, joined[-1][2] + 1]
        else:
            joined.append([t, t, 1])
    return joined


def cut(times, begins):
    """Deals times to windows, each from its begin to the next; what comes before the first one counts to it."""
    windows = [[] for _ in begins] or [[]]
    for t in times:
        windows[max(sum(1 for begin in begins if begin <= t) - 1, 0)].append(t)
    return windows


# Columns that Open vSwitch writes by itself, by table; _uuid and _version name a row.
VOLATILE = {
    'Bridge': {'_uuid', '_version', 'status', 'rstp_status', 'ports', 'controller', 'datapath_version'},
    'Port': {'_uuid', '_version', 'interfaces', 'statistics', 'status', 'rstp_status', 'rstp_statistics', 'mac', 'bond_active_slave'},
    'Interface': {'_uuid', '_version', 'admin_state', 'duplex', 'ifindex', 'link_resets', 'link_speed', 'link_state', 'mac_in_use', 'mtu', 'ofport', 'statistics', 'status'},
    'Controller': {'_uuid', '_version', 'is_connected', 'role', 'status'},
}


def rows(bridge=None):
    """What a person would call the state: which switch has which ports, and what is written in OVSDB, as text; of one bridge,
    or of all."""
    found = []
    for table, volatile in VOLATILE.items():
        answer = json.loads(campus.run('ovs-vsctl', '--format=json', 'list', table))
        for data in answer['data']:
            row = dict(zip(answer['headings'], data))
            name = row.get('name') or row.get('target')
            if bridge is None or name == bridge or table == 'Controller':
                found.append([table, name, {k: v for k, v in sorted(row.items()) if k not in volatile}])
    controllers = json.loads(campus.run('ovs-vsctl', '--format=json', '--columns=controller,ports,name', 'list', 'Bridge'))
    for refs, port_refs, name in controllers['data']:
        if bridge in (None, name):
            found.append(['Refers', name, {'controllers': refs if refs[0] == 'uuid' else len(refs[1]), 'ports': len(port_refs[1]) if port_refs[0] == 'set' else 1}])
    if bridge is not None:
        found = [row for row in found if row[0] != 'Controller']
    every = {port for switch in campus.SWITCHES for port in campus.ports(switch)}
    legacy = [[link['ifname'], link.get('master')] for link in json.loads(campus.run('ip', '-j', 'link')) if link['ifname'] in every]
    return {'ovsdb': sorted(found, key=json.dumps), 'legacy': sorted(legacy)}


def state():
    """What Fairlead and the bridges hold, as text."""
    return json.dumps([rows(), *([{k: v for k, v in item.items() if k in ('name', 'state', 'revision', 'generation', 'stage', 'bpdus')} for item in campus.items(path)]
                               for path in ('/v1/migrations', '/v1/vips', '/v1/switches'))])


def heading(text):
    print(f'\n\033[1m{text}\033[0m' if sys.stdout.isatty() else f'\n{text}', flush=True)


def say(text=''):
    print(f'   {text}' if text else '', flush=True)


def show_logs():
    for name in ('fairlead.log', 'ovs-vswitchd.log'):
        path = os.path.join(campus.DIR, name)
        if os.path.exists(path):
            with open(path, errors='replace') as log:
                print(f'--- {name}\n' + ''.join(log.readlines()[-40:]), file=sys.stderr)


def story(options):
    """Runs the story in the campus's network namespace."""
    demo = Demo(options)
    status = 0
    try:
        demo.run()
        status = 3 if demo.missed else 0
    except (campus.CampusError, OSError) as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        show_logs()
        status = 1
    if options.report:
        with open(options.report, 'w') as out:
            json.dump({'steps': demo.report, 'missed': demo.missed}, out, indent=1)
    if options.logs:
        for name in os.listdir(campus.DIR):
            if name.endswith('.log'):
                shutil.copy(os.path.join(campus.DIR, name), options.logs)
    return status


def main():
    parser = argparse.ArgumentParser(description='Migrates a campus of six legacy switches to SDN, under traffic, and back.')
    parser.add_argument('--form', choices=['python', 'ansible'], default='python', help='by which scripts (default python)')
    parser.add_argument('--until', choices=['core1', 'access', 'core2'], default='core2', help='how far to go before going back (default core2, the last one)')
    parser.add_argument('--report', metavar='FILE', help='write what was measured, as JSON')
    parser.add_argument('--picture', metavar='FILE', help='write the picture of the whole campus as SDN, as SVG')
    parser.add_argument('--logs', metavar='DIRECTORY', help='keep the logs')
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit('demo: network namespaces need root: use make demo-hybrid, or sudo')
    if not os.access(campus.FAIRLEAD, os.X_OK):
        sys.exit(f'demo: {campus.FAIRLEAD} is missing: use make demo-hybrid')
    enter_namespaces()
    if not os.environ.get('FAIRLEAD_CAMPUS_SPACE'):
        heading('0. The legacy campus: six Linux bridges with spanning tree, FRR as the router')
        say('# mininet/hybrid/0_legacy.py')
        built = subprocess.run([sys.executable, os.path.join(HERE, '0_legacy.py')], stdout=subprocess.PIPE, text=True)
        for line in built.stdout.splitlines():
            say(line)
        if built.returncode != 0:
            sys.exit(built.returncode)
    campus.enter()
    sys.exit(story(options))


if __name__ == '__main__':
    main()
