#!/usr/bin/python3
"""Stage 0: builds the campus as it is before the migration: six legacy switches, one router.

Open vSwitch and Fairlead run already and have nothing to do.
"""

import os
import subprocess
import sys

import campus

if __name__ == '__main__':
    if os.environ.get('FAIRLEAD_CAMPUS_SPACE') != campus.SPACE:
        try:
            campus.build()
        except campus.CampusError as error:
            sys.exit(f'0_legacy.py: {error}')

    def steps():
        campus.cable()
        campus.start_fairlead()
        for switch in campus.SWITCHES:
            blocked = [p for p in campus.ports(switch) if campus.stp_state(p) == 'blocking']
            print(f'{switch}: ' + ', '.join(campus.ports(switch)) + (f'; spanning tree blocks {", ".join(blocked)}' if blocked else ''))

    campus.main(steps)
